"""Every format gives the same samples, whole or in pieces."""

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
from nptdms import ChannelObject, TdmsWriter
from scipy.io import savemat

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.signals.readers import READERS
from hdmap_mlflow.signals.record import check_record, open_record
from hdmap_mlflow.signals.spec import Channel

N, RATE = 5000, 1600.0
DATA = np.random.default_rng(0).uniform(-0.9, 0.9, (N, 3)).astype(np.float32)
COLUMNS = [Channel(variable="x", column=i) for i in (2, 0)]
PLACES = [Channel(column=i) for i in (2, 0)]
NAMES = [Channel(variable=name) for name in "ca"]
TABLE = pd.DataFrame(DATA, columns=list("abc"))


def h5(path, data=DATA):
    with h5py.File(path, "w") as file:
        file.create_dataset("run/x", data=data, chunks=True, compression="gzip")
        file["run/fs"] = RATE


def mat_73(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"], file["fs"] = DATA.T, [[RATE]]
        file.create_group("#refs#")["junk"] = [0]


def tdms(path):
    about = {"wf_increment": 1 / RATE}
    with TdmsWriter(path) as file:
        file.write_segment([ChannelObject("g", name, DATA[:, i], about) for i, name in enumerate("abc")])


def csv(path, **law):
    TABLE.to_csv(path, index=False, **law)  # packed where the suffix says so


def excel(path):
    csv(path, sep=";", encoding="utf-8-sig", lineterminator="\r\n")


NESTED = [Channel(variable="run/x", column=i) for i in (2, 0)]
FORMATS = {
    "rows.npy": (lambda p: np.save(p, DATA), PLACES, RATE),
    "columns.npy": (lambda p: np.save(p, DATA.T.copy()), PLACES, RATE),
    "fortran.npy": (lambda p: np.save(p, np.asfortranarray(DATA)), PLACES, RATE),
    "stored.npz": (lambda p: np.savez(p, x=DATA, fs=RATE), COLUMNS, "fs"),
    "packed.npz": (lambda p: np.savez_compressed(p, x=DATA.T.astype(">f8"), fs=[[RATE]]), COLUMNS, "fs"),
    "x.csv": (csv, NAMES, RATE),
    "marked.csv": (
        lambda p: TABLE.to_csv(p, index=False, sep=";", encoding="utf-8-sig", lineterminator="\r\n"),
        NAMES,
        RATE,
    ),
    "headless.csv": (lambda p: csv(p, header=False), PLACES, RATE),
    "x.csv.gz": (csv, NAMES, RATE),
    "x.parquet": (lambda p: TABLE.to_parquet(p), NAMES, RATE),
    "by_place.parquet": (lambda p: TABLE.to_parquet(p), PLACES, RATE),
    "x.h5": (h5, NESTED, "run/fs"),
    "five.mat": (lambda p: savemat(p, {"x": DATA, "fs": RATE}), COLUMNS, "fs"),
    "fields.mat": (lambda p: savemat(p, {"run": {"x": DATA, "fs": RATE}}, do_compression=True), NESTED, "run/fs"),
    "new.mat": (mat_73, COLUMNS, "fs"),
    "float.WAV": (lambda p: soundfile.write(p, DATA, int(RATE), "FLOAT"), PLACES, None),
    "x.tdms": (tdms, [Channel(variable="g/c"), Channel(variable="g/a")], None),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_samples_and_its_rate(name, tmp_path):
    write, channels, rate = FORMATS[name]
    write(path := tmp_path / name)
    check_record(path, channels, rate, tmp_path)
    with open_record(path, channels, rate, tmp_path) as opened:
        assert (opened.length, opened.rate) == (N, RATE)
        assert np.array_equal(opened.read(0, N).astype(np.float32), DATA[:, [2, 0]])
        pieces = [block for _, block in opened.blocks(7, N - 5, 777)]
        assert np.array_equal(np.concatenate(pieces).astype(np.float32), DATA[7 : N - 5, [2, 0]])
        assert np.array_equal(opened.of(slice(1, 2)).read(10, 30).astype(np.float32), DATA[10:30, [0]])
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing is left"


def test_there_is_a_test_for_every_suffix():
    assert {suffix for suffix in READERS} == {
        suffix for suffix in READERS if any(n.lower().endswith(suffix) for n in FORMATS)
    }


def test_24_bit_wav_is_read_as_shares_of_its_range(tmp_path):
    soundfile.write(tmp_path / "x.wav", DATA, 48_000, "PCM_24")
    with open_record(tmp_path / "x.wav", [Channel(column=1)], None, tmp_path) as opened:
        assert np.abs(opened.read(0, N)[:, 0] - DATA[:, 1]).max() < 2**-23


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.parquet", "stored.npz"])
def test_the_head_of_a_file_is_checked_without_unpacking_it(name, tmp_path, monkeypatch):
    write, channels, rate = FORMATS[name]
    write(path := tmp_path / name)
    monkeypatch.setattr(
        "hdmap_mlflow.signals.readers._Table._flat", property(lambda self: pytest.fail("it was unpacked"))
    )
    monkeypatch.setattr("hdmap_mlflow.signals.readers.shutil.copyfileobj", lambda *_: pytest.fail("it was unpacked"))
    check_record(path, channels, RATE, tmp_path)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.parquet"])
def test_a_sample_that_is_no_number_is_named_by_its_place(name, spoilt, tmp_path):
    table = TABLE.copy()
    table.iloc[1234, 1] = spoilt
    {".npy": lambda p: np.save(p, table), ".csv": table.to_csv, ".parquet": table.to_parquet}[(tmp_path / name).suffix](
        tmp_path / name
    )
    channel = Channel(column=1) if name.endswith("npy") else Channel(variable="b")
    with open_record(tmp_path / name, [channel], RATE, tmp_path) as opened:
        opened.read(0, 1234)
        with pytest.raises(BadInput, match="sample 1234"):
            opened.read(0, N)
