"""Train a segmentation network with SGD, Adam or SAM, or measure how robust a trained one is; see --help.

    python main.py --optimizer SAM --rho 0.02            train
    python main.py --test_only --attack pgd              mIoU, clean and attacked, of what was trained
"""
from datetime import datetime

from engine import build, options, report
from engine.errors import reported_errors
from engine.evaluate import evaluate
from engine.run import Run, load_checkpoint
from engine.train import Trainer
from metrics import StreamSegMetrics
from optim import build_loss
from utils.logging import logger
from utils.seed import seed_everything


def main(argv=None) -> dict:
    """Do what argv says; returns the results dict that results.json holds. Bad input: one line, exit code 2."""
    with reported_errors():
        opts = options.parse_options(argv)
        run = Run(opts)
        checkpoint = load_checkpoint(opts, run)
        options.complete(opts)
        run.refuse_if_used(opts)

        seed_everything(opts.random_seed)
        device = build.choose_device(opts.gpu_id)
        train_loader, val_loader, val_set = build.build_data(opts, device)
        model = build.build_network(opts, device, checkpoint=checkpoint)
        dashboard = build.build_dashboard(opts)
        dashboard.vis_table("Options", options.to_dict(opts))
        if opts.test_only:
            logger.info("Model restored from %s", opts.ckpt)
            run.open(opts)
        else:
            trainer = build_trainer(opts, run, model, train_loader, val_loader, val_set, dashboard)
            start(trainer, opts, checkpoint)
            run.open(opts)
            trainer.train(opts.total_itrs, print_interval=opts.print_interval, val_interval=opts.val_interval)
            trainer.load_best()
        return evaluate_all(opts, run, model, val_loader, val_set, dashboard)


def build_trainer(opts, run, model, train_loader, val_loader, val_set, dashboard) -> Trainer:
    """The training run: optimizer, schedule, loss, what a validation does and what a checkpoint describes."""
    samples = report.Samples(dashboard, val_set, opts.vis_num_samples)

    def validate(trainer):
        metrics = StreamSegMetrics(val_set.num_classes)
        results = evaluate(model, val_loader, metrics, on_batch=samples, title="validation")
        logger.info(metrics.to_str(results))
        report.show_validation(dashboard, results, itr=trainer.cur_itrs, class_names=val_set.class_names)
        return results

    logger.info("Experiment starts at %s", datetime.now().isoformat(sep=" ", timespec="seconds"))
    logger.info("%s %s %s", opts.exp_name, opts.model, opts.dataset)
    optimizer, scheduler = build.build_training(opts, model)
    return Trainer(
        model, build.parallel(model, batch_size=opts.batch_size), train_loader, optimizer=optimizer,
        scheduler=scheduler, criterion=build_loss(opts.loss_type), validate=validate, dashboard=dashboard,
        paths={kind: run.checkpoint_path(kind, opts) for kind in ("latest", "best")}, go_on=run.continue_command(),
        described={"options": options.to_dict(opts), "normalization": model.normalization,
                   "class_names": val_set.class_names})


def start(trainer: Trainer, opts, checkpoint):
    """Take up the checkpoint's training state where that is asked for, and say from what the run starts."""
    if opts.continue_training:
        trainer.restore(checkpoint, source=opts.ckpt)
    if checkpoint is None:
        logger.info("[!] Retrain")
    else:
        logger.info("Model restored from %s", opts.ckpt)


def evaluate_all(opts, run, model, val_loader, val_set, dashboard) -> dict:
    """Evaluate clean, then under every attack at every eps; shows and writes what was found, also of a part."""
    rows = []
    results = {"options": options.to_dict(opts), "results": rows}
    pictures = run.folder / "val_results"
    if opts.save_val_results:
        report.keep_earlier(pictures)
    try:
        for name, attack in [("none", None), *build.build_attacks(opts)]:
            settings = report.attack_settings(name, attack)
            writer = report.PngWriter(pictures / report.label(settings), val_set) if opts.save_val_results else None
            scores = evaluate(model, val_loader, StreamSegMetrics(val_set.num_classes), attack, on_batch=writer)
            rows.append(report.row(settings, scores, class_names=val_set.class_names))
    finally:
        if rows:
            logger.info("\n%s\n", report.table(rows))
            report.write_results(run.folder / "results.json", results)
            report.show_robustness(dashboard, rows)
    return results


if __name__ == "__main__":
    main()
