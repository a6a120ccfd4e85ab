"""Train a segmentation network with SGD, Adam or SAM, or measure how robust a trained one is; see --help.

    python main.py --optimizer SAM --rho 0.02            train
    python main.py --test_only --attack pgd              mIoU, clean and attacked, of what was trained
    python main.py --verify                              can these numbers be trusted?
    python main.py --report exp                          tables and curves from what was recorded
"""
from engine.evaluation.build import sweep_planned, weigh_classes
from engine.options import REPORT, TRAIN, VERIFY
from engine.report.build import report
from engine.run.exits import reported_errors
from engine.setup import prepare
from engine.training.build import build_trainer
from engine.verify import verify


def main(argv=None) -> dict:
    """Do what argv says; returns the results dict that results.json holds. Bad input: one line, exit code 2."""
    with reported_errors():
        return carry_out(argv)


def carry_out(argv) -> dict:
    """Train, evaluate, verify or report, as main's argv says; returns the results."""
    setup = prepare(argv)
    options = setup.options
    if options.mode == REPORT:
        return report(options)
    trainer = build_trainer(setup) if options.mode == TRAIN else None
    weigh_classes(setup)
    setup.open_run()
    if options.mode == VERIFY:
        return verify(setup.model, setup.val_loader, setup.val_set, folder=setup.run.folder, eps=options.eps[0],
                      every_image=options.val_images is not None, seed=options.attack_seed,
                      described=options.to_dict())
    if trainer is not None:
        trainer.train(options.total_itrs, print_interval=options.print_interval, val_interval=options.val_interval,
                      save_interval=options.save_interval)
        trainer.load_best()
    return sweep_planned(setup)


if __name__ == "__main__":
    main()
