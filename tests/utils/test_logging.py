from utils.distributed import TORCHRUN
from utils.logging import log_to_file, logger, start_log, stop_log


def test_lines_go_to_the_console_and_all_of_them_to_the_file(tmp_path, capsys):
    start_log()
    logger.info("before the folder")
    log_to_file(tmp_path / "log.txt")
    logger.info("after %d", 2)
    logger.error("wrong")
    stop_log()
    out, err = capsys.readouterr()
    assert out == "before the folder\nafter 2\n" and err == "wrong\n"
    assert (tmp_path / "log.txt").read_text() == "before the folder\nafter 2\nwrong\n"


def test_a_new_run_forgets_the_old_file_and_appends(tmp_path):
    for line in ("one", "two"):
        start_log()
        logger.info(line)
        log_to_file(tmp_path / "log.txt")
    start_log()
    logger.info("three")
    stop_log()
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"


def test_other_ranks_only_say_what_went_wrong(tmp_path, capsys, monkeypatch):
    for name, value in zip(TORCHRUN, ("2", "3", "2", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    start_log()
    logger.info("as rank 0 says")
    logger.warning("as it warns")
    log_to_file(tmp_path / "log.txt")
    logger.error("wrong")
    stop_log()
    assert capsys.readouterr() == ("", "[rank 2] wrong\n") and not list(tmp_path.iterdir())
    monkeypatch.delenv("RANK")
    start_log()
    logger.info("a single process again")
    stop_log()
    assert capsys.readouterr() == ("a single process again\n", "")
