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
