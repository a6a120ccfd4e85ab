"""Train a segmentation network with SGD, Adam or SAM, or measure how robust a trained one is; see --help.

    python main.py --optimizer SAM --rho 0.02            train
    python main.py --test_only --attack pgd              mIoU of the trained network, clean and attacked
    python main.py --verify                              check whether these scores can be trusted
    python main.py --report exp                          tables and curves of recorded results
    python main.py --list attacks                        what there is; --version: what a report of an error needs
"""
from contextlib import closing

from engine.about import answer
from engine.options import ABOUT, REPORT, TRAIN, VERIFY, Call, read_call
from engine.run.exits import reported_errors
from engine.run.interrupts import held_signals


def main(argv=None) -> dict:
    """Train, evaluate, verify or report as argv says; return what results.json holds. Bad input exits with code 2."""
    with reported_errors():
        return run(read_call(argv))


def run(call: Call) -> dict:
    """Do what main() says, without catching errors."""
    if call.mode == ABOUT:
        return answer(call.given.get("list"), version=call.given.get("version", False))
    with held_signals():  # here, once the flags are right, as importing torch takes seconds
        from engine.evaluation.plan import sweep_planned, weigh_classes
        from engine.report.build import report
        from engine.setup import prepare
        from engine.training.build import build_trainer
        from engine.verify import verify

    setup = prepare(call)
    options = setup.options
    if options.mode == REPORT:
        return report(options)
    trainer = build_trainer(setup) if options.mode == TRAIN else None
    weigh_classes(setup)
    setup.open_run()
    if options.mode == VERIFY:
        return verify(setup.scored_model, setup.val_loader, setup.val_set, folder=setup.run.folder, eps=options.eps[0],
                      every_image=options.val_images is not None, seed=options.attack_seed,
                      transfer_from=setup.transfer_from, described=options.to_dict())
    with closing(setup.dashboard):
        if trainer is not None:
            trainer.train(options.total_itrs, print_interval=options.print_interval, val_interval=options.val_interval,
                          save_interval=options.save_interval)
            trainer.load_best()
        return sweep_planned(setup)


if __name__ == "__main__":
    main()
