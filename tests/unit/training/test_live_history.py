"""How often the history of a training that runs is written."""

from striate.training import history


def test_writes_of_the_history_take_a_hundredth_of_the_time(tmp_path, monkeypatch):
    now, cost, written = [0.0], [0.25], []

    def write(rows, folder):
        written.append(now[0])
        now[0] += cost[0]

    monkeypatch.setattr(history, "write_history", write)
    monkeypatch.setattr(history.time, "monotonic", lambda: now[0])
    live = history.LiveHistory(tmp_path)
    for _ in range(300):
        live.update([])
        now[0] += 0.5
    assert written == [0.0, 25.25, 50.5, 75.75, 101.0, 126.25]
    cost[0] = 0.0
    written.clear()
    now[0] = 1000.0
    for _ in range(9):
        live.update([])
        now[0] += 0.25
    assert written == [1000.0, 1001.0, 1002.0]  # at most one a second, however cheap
