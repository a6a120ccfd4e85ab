"""Train a segmentation network with SGD, Adam or SAM, or measure how robust a trained one is; see --help.

    python main.py --optimizer SAM --rho 0.02            train
    python main.py --test_only --attack pgd              mIoU, clean and attacked, of what was trained
    python main.py --verify                              can these numbers be trusted?
    python main.py --report exp                          tables and curves from what was recorded
"""
from engine import build, options
from engine.compare import compare
from engine.errors import reported_errors
from engine.plan import plan_attacks, weights_for
from engine.resume import load_checkpoint, skipped_before
from engine.robustness import evaluate_all
from engine.run import Run
from engine.training import build_trainer
from engine.verify import verify
from utils.seed import seed_everything


def main(argv=None) -> dict:
    """Do what argv says; returns the results dict that results.json holds. Bad input: one line, exit code 2."""
    with reported_errors():
        return carry_out(options.parse_options(argv))


def carry_out(opts) -> dict:
    """Train or evaluate, as main's argv says; returns the results."""
    if opts.report:
        return compare(**options.report_arguments(opts))
    run = Run(opts)
    checkpoint = load_checkpoint(opts, run)
    options.complete(opts)
    run.refuse_if_used(opts)

    seed_everything(opts.random_seed)
    device = build.choose_device(opts.gpu_id)
    skipped = skipped_before(opts, checkpoint)
    train_loader, val_loader, val_set = build.build_data(opts, device, skipped=skipped)
    model = build.build_network(opts, device, checkpoint=checkpoint)
    dashboard = build.build_dashboard(opts)
    dashboard.vis_table("Options", options.to_dict(opts))
    if not opts.test_only:
        trainer = build_trainer(opts, run, model, train_loader, val_loader, val_set, dashboard)
        if opts.continue_training:
            trainer.restore(checkpoint, source=opts.ckpt)
    attacks = plan_attacks(opts, weights=weights_for(opts, train_loader and train_loader.dataset, skipped=skipped))
    build.say_start(opts)
    run.open(opts)
    if opts.verify:
        return verify(opts, model, val_loader, val_set, folder=run.folder)
    if not opts.test_only:
        trainer.train(opts.total_itrs, print_interval=opts.print_interval, val_interval=opts.val_interval,
                      save_interval=opts.save_interval)
        trainer.load_best()
    return evaluate_all(opts, model, val_loader, val_set, attacks, folder=run.folder, dashboard=dashboard)


if __name__ == "__main__":
    main()
