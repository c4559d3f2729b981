"""Volumes: what is read is what was stored, and every damaged file is named."""

import gzip
import struct

import nibabel
import numpy as np
import pytest

from dqc_lib.volumes import Volume, VolumeCache, read_volume, rescale_to_uint8, write_volume

AFFINE = np.array([[2.0, 0, 0, -10], [0, 3.0, 0, 5], [0, 0, 4.0, 7], [0, 0, 0, 1]])


def make_array(shape=(4, 5, 6), *, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def save(path, array, affine=AFFINE):
    """Write with nibabel, a route that shares nothing with ours."""
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def edit_header(path, offset, value):
    """Overwrite bytes of an uncompressed NIfTI."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32"])
def test_a_file_is_read_as_stored(tmp_path, ending, dtype):
    array = make_array(dtype=dtype)
    volume = read_volume(save(tmp_path / f"a{ending}", array))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert (volume.shape, volume.spacing, volume.orientation) == ((4, 5, 6), (2.0, 3.0, 4.0), "RAS")


def test_double_precision_becomes_single_and_big_endian_is_read(tmp_path):
    array = make_array(dtype="float64") / 7
    assert read_volume(save(tmp_path / "double.nii.gz", array)).array.dtype == np.float32
    image = nibabel.Nifti1Image(make_array(dtype=">i2"), AFFINE, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == struct.pack(">i", 348)
    np.testing.assert_array_equal(read_volume(tmp_path / "big.nii").array, make_array())


def test_a_trailing_single_axis_and_scaled_values_are_read(tmp_path):
    array = make_array(dtype="int16")
    np.testing.assert_array_equal(read_volume(save(tmp_path / "last.nii.gz", array[..., None])).array, array)
    scaled = nibabel.Nifti1Image(array, AFFINE)
    scaled.header.set_slope_inter(0.5, 3)
    nibabel.save(scaled, tmp_path / "scaled.nii")
    expected = nibabel.load(tmp_path / "scaled.nii").get_fdata()
    np.testing.assert_allclose(read_volume(tmp_path / "scaled.nii").array, expected)


@pytest.mark.parametrize("wanted", ["RAS", "LPS", "SRA", "PIL"])
def test_reorientation_agrees_with_nibabel_and_keeps_spacing(tmp_path, wanted):
    array, affine = make_array(), np.array([[0, 0, -2.0, 9], [3.0, 0, 0, -4], [0, 4.0, 0, 1], [0, 0, 0, 1]])
    path = save(tmp_path / "turned.nii.gz", array, affine)
    image = nibabel.load(path)
    change = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(tuple(wanted))
    )
    expected = image.as_reoriented(change)
    volume = read_volume(path, orientation=wanted)
    np.testing.assert_array_equal(volume.array, np.asarray(expected.dataobj))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)
    assert volume.orientation == wanted
    np.testing.assert_allclose(volume.spacing, expected.header.get_zooms())


def test_orientation_none_keeps_the_axes_as_stored(tmp_path):
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    volume = read_volume(save(tmp_path / "left.nii.gz", make_array(), affine), orientation=None)
    assert volume.orientation == "LAS"
    np.testing.assert_array_equal(volume.array, make_array())
    with pytest.raises(ValueError, match="'RAX'.*expected three letters"):
        read_volume(tmp_path / "left.nii.gz", orientation="RAX")


def make_missing(path):
    return path


def make_text(path):
    path.write_text("not an image " * 100)


def make_empty(path):
    path.write_bytes(b"")


def make_short_header(path):
    path.write_bytes(save(path, make_array()).read_bytes()[:100])


def make_short_payload(path):
    path.write_bytes(save(path, make_array()).read_bytes()[:-1])


def make_cut_gzip(path):
    path.write_bytes(save(path, make_array()).read_bytes()[:-20])


def make_damaged_gzip(path):
    content = bytearray(save(path, make_array()).read_bytes())
    content[-8] ^= 0xFF
    path.write_bytes(content)


def make_short_payload_in_a_whole_gzip(path):
    path.write_bytes(gzip.compress(gzip.decompress(save(path, make_array()).read_bytes())[:-3]))


def make_four_dimensional(path):
    save(path, make_array((4, 5, 6, 2)))


def make_two_dimensional(path):
    save(path, make_array((4, 5)))


def make_color(path):
    save(path, np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def make_complex(path):
    save(path, make_array().astype("complex64"))


def make_wrong_shape(path):
    save(path, make_array((4, 5, 7)))


def make_huge(path):
    edit_header(save(path, make_array()), 42, struct.pack("<3h", 30000, 30000, 30000))


def make_zero_size(path):
    edit_header(save(path, make_array()), 42, struct.pack("<h", 0))


def make_no_dimensions(path):
    edit_header(save(path, make_array()), 40, struct.pack("<h", 99))


def make_pair(path):
    edit_header(save(path, make_array()), 344, b"ni1\0")


def make_shear(path):
    affine = AFFINE.copy()
    affine[0, 1] = 1.5
    save(path, make_array(), affine)


def make_nan(path):
    array = make_array(dtype="float32")
    array[0, 0, :2] = np.nan
    save(path, array)


def make_infinite(path):
    array = make_array(dtype="float64")
    array[-1, -1, -1] = -np.inf
    save(path, array)


def make_beyond_single_precision(path):
    array = make_array(dtype="float64")
    array[0, 0, 0] = 1e300
    save(path, array)


def make_nifti_2(path):
    nibabel.save(nibabel.Nifti2Image(make_array(), AFFINE), path)


def make_constant(path):
    save(path, np.full((4, 5, 6), 3, dtype="uint8"))


BAD = [
    (make_missing, "a.nii.gz", FileNotFoundError, "no such file; expected a NIfTI image"),
    (make_text, "a.nii", ValueError, "not a NIfTI-1 header; expected"),
    (make_text, "a.nii.gz", ValueError, "not a NIfTI-1 header; expected"),
    (make_text, "a.png", ValueError, "expected the ending .nii or .nii.gz"),
    (make_empty, "a.nii.gz", ValueError, "truncated, 0 bytes; expected a NIfTI header"),
    (make_short_header, "a.nii", ValueError, "truncated, 100 bytes; expected a NIfTI header"),
    (make_short_payload, "a.nii", ValueError, "truncated, 119 bytes of voxels; expected 120"),
    (make_short_payload_in_a_whole_gzip, "a.nii.gz", ValueError, "truncated, 117 bytes of voxels; expected 120"),
    (make_cut_gzip, "a.nii.gz", ValueError, "truncated, .*expected a complete file"),
    (make_damaged_gzip, "a.nii.gz", ValueError, "compressed data are damaged .*expected"),
    (make_four_dimensional, "a.nii.gz", ValueError, r"4-D, sizes \(4, 5, 6, 2\); expected one 3-D"),
    (make_two_dimensional, "a.nii.gz", ValueError, "2-D.*expected one 3-D"),
    (make_color, "a.nii.gz", ValueError, "voxel type 128; expected one real"),
    (make_complex, "a.nii.gz", ValueError, "voxel type 32; expected one real"),
    (make_wrong_shape, "a.nii.gz", ValueError, r"shape \(4, 5, 7\).*expected \(4, 5, 6\)"),
    (make_huge, "a.nii", ValueError, "27000000000000 voxels.*expected at most 134217728"),
    (make_zero_size, "a.nii", ValueError, "damaged header.*expected 3-D"),
    (make_no_dimensions, "a.nii", ValueError, "damaged header, 99 dimensions.*expected 3-D"),
    (make_pair, "a.nii", ValueError, "expected a single-file NIfTI"),
    (make_shear, "a.nii", ValueError, "unreadable, SimpleITK says: .*orthonormal.*expected"),
    (make_nan, "a.nii.gz", ValueError, "2 of 120 voxels are NaN or infinite; expected finite"),
    (make_infinite, "a.nii.gz", ValueError, "1 of 120 voxels are NaN or infinite; expected finite"),
    (make_beyond_single_precision, "a.nii.gz", ValueError, "beyond the range of float32; expected finite"),
    (make_nifti_2, "a.nii.gz", ValueError, "not a NIfTI-1 header; expected a single-file NIfTI-1"),
    (make_nan, "a.nii", ValueError, "2 of 120 voxels are NaN or infinite; expected finite"),
    (make_constant, "a.nii.gz", ValueError, "constant volume, every voxel is 3; expected an image"),
]


@pytest.mark.parametrize(
    ("make", "name", "kind", "message"), BAD, ids=[f"{case[0].__name__}-{case[1]}" for case in BAD]
)
def test_a_bad_file_is_refused_by_name_and_without_noise(tmp_path, capfd, make, name, kind, message):
    path = tmp_path / name
    if name == "a.png":
        path.write_text("picture")
    else:
        make(path)
    with pytest.raises(kind, match=message) as caught:
        read_volume(path, shape=(4, 5, 6), subject="sub-7")
    assert str(path) in str(caught.value)
    assert "'sub-7'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("n_extra", [1, 3, 4, 2**20])
def test_bytes_after_the_last_voxel_do_no_harm(tmp_path, n_extra):
    path = save(tmp_path / "a.nii", make_array(dtype="float32"))
    path.write_bytes(path.read_bytes() + b"\xff" * n_extra)
    np.testing.assert_array_equal(read_volume(path).array, make_array())


def test_one_infinite_voxel_is_found_beyond_the_first_mebibyte(tmp_path):
    array = np.random.default_rng(0).random((64, 65, 67))
    array[-1, -1, -1] = np.inf
    with pytest.raises(ValueError, match="1 of 278720 voxels"):
        read_volume(save(tmp_path / "a.nii", array))


def test_a_lying_header_is_refused_at_the_limit_that_is_given(tmp_path):
    path = save(tmp_path / "a.nii.gz", make_array())
    assert read_volume(path, max_voxels=120).shape == (4, 5, 6)
    with pytest.raises(ValueError, match="120 voxels.*expected at most 119"):
        read_volume(path, max_voxels=119)


def test_a_blank_volume_is_read_only_where_that_is_allowed(tmp_path):
    path = save(tmp_path / "blank.nii.gz", np.zeros((4, 5, 6), dtype="uint8"))
    assert not read_volume(path, allow_constant=True).array.any()
    with pytest.raises(ValueError, match="sub-1.*constant"):
        VolumeCache({"sub-1": path})["sub-1"]
    assert not VolumeCache({"sub-1": path}, allow_constant=True)["sub-1"].any()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "int64"])
def test_what_is_written_nibabel_reads_back(tmp_path, ending, dtype):
    affine = np.array([[0, 0, -2.0, 9], [3.0, 0, 0, -4], [0, 4.0, 0, 1], [0, 0, 0, 1]])
    path = write_volume(tmp_path / "new" / "folder" / f"a{ending}", make_array(dtype=dtype), affine=affine)
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), make_array())
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.get_data_dtype() == dtype
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_writing_twice_gives_the_same_bytes(tmp_path):
    first = write_volume(tmp_path / "a.nii.gz", make_array(), affine=AFFINE)
    second = write_volume(tmp_path / "b" / "c.nii.gz", make_array(), affine=AFFINE)
    assert first.read_bytes() == second.read_bytes()


def test_floats_are_rounded_to_integers_and_never_wrapped(tmp_path):
    array = make_array(dtype="float32")
    array[0, 0, 0] = 1.7
    path = write_volume(tmp_path / "a.nii.gz", array, affine=AFFINE, dtype="uint8")
    assert read_volume(path).array[0, 0, 0] == 2
    array[0, 0, 0] = 256
    with pytest.raises(ValueError, match="a.nii.gz: values from 0 to 256; expected 0 to 255 for uint8"):
        write_volume(path, array, affine=AFFINE, dtype="uint8")


@pytest.mark.parametrize(
    ("name", "array", "affine", "message"),
    [
        ("a.png", make_array(), AFFINE, "expected the ending"),
        ("a.nii", make_array((4, 5)), AFFINE, "expected an array"),
        ("a.nii", make_array((4, 5, 6, 2)), AFFINE, "expected an array"),
        ("a.nii", make_array(), np.eye(3), r"affine \(4, 4\)"),
        ("a.nii", make_array(), np.diag([0.0, 1, 1, 1]), "spacing above 0"),
        ("a.nii", make_array(), AFFINE + np.eye(4, k=1), "shear; expected axes at right angles"),
        ("a.nii", np.full((2, 2, 2), np.nan), AFFINE, "NaN or infinite values; expected finite"),
        ("a.nii", make_array(dtype="complex64"), AFFINE, "complex64.*expected real values"),
        ("a.nii", make_array(dtype="float16"), AFFINE, "float16.*expected real values"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_no_file(tmp_path, name, array, affine, message):
    with pytest.raises(ValueError, match=message):
        write_volume(tmp_path / name, array, affine=affine)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    import SimpleITK

    path = write_volume(tmp_path / "a.nii.gz", make_array(), affine=AFFINE)
    before = path.read_bytes()

    def fail(image, name, **options):
        with open(name, "wb") as stream:
            stream.write(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(SimpleITK, "WriteImage", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_volume(path, make_array(seed=1), affine=AFFINE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_volume_does_not_wait_for_the_disk_and_clears_up_after_a_killed_process(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr("os.fsync", None)  # would be a TypeError
    with killed_at(0):
        write_volume(tmp_path / "a.nii.gz", make_array(), affine=AFFINE)
    (left,) = tmp_path.iterdir()
    assert left.name != "a.nii.gz"
    path = write_volume(tmp_path / "a.nii.gz", make_array(), affine=AFFINE)
    assert list(tmp_path.iterdir()) == [path] and read_volume(path).shape == make_array().shape


def make_files(folder, n=3, **options):
    return {f"sub-{i}": save(folder / f"{i}.nii.gz", make_array(seed=i, **options)) for i in range(n)}


def test_the_cache_gives_each_subject_its_own_volume_and_batches_in_order(tmp_path):
    cache = VolumeCache(make_files(tmp_path))
    assert cache.shape == (4, 5, 6)
    assert cache["sub-1"].dtype == np.uint8
    np.testing.assert_array_equal(cache["sub-1"], make_array(seed=1))
    batch = cache.batch(["sub-2", "sub-0"])
    assert (batch.shape, batch.dtype) == ((2, 4, 5, 6, 1), np.float32)
    np.testing.assert_array_equal(batch[0, ..., 0], make_array(seed=2))
    assert cache.batch([]).shape == (0, 4, 5, 6, 1)


def count_reads(cache, monkeypatch):
    """Return the list that the names of subjects read from disk go to."""
    reads, read = [], cache._read
    monkeypatch.setattr(cache, "_read", lambda subject: reads.append(subject) or read(subject))
    return reads


def test_the_cache_reads_once_what_it_has_room_for(tmp_path, monkeypatch):
    cache = VolumeCache(make_files(tmp_path), max_bytes=2 * 120)
    reads = count_reads(cache, monkeypatch)
    for _ in range(3):
        cache.batch(["sub-0", "sub-1", "sub-0", "sub-2"])
    assert reads == ["sub-0", "sub-1", "sub-2", "sub-2", "sub-2"], "going round, what came first stays"
    assert cache.nbytes == 240
    for name, seed in (("sub-0", 0), ("sub-2", 2)):
        np.testing.assert_array_equal(cache[name], make_array(seed=seed))


def test_what_is_asked_for_more_often_takes_the_room(tmp_path, monkeypatch):
    cache = VolumeCache(make_files(tmp_path), max_bytes=2 * 120)
    cache.batch(["sub-0", "sub-0", "sub-0", "sub-1"])
    reads = count_reads(cache, monkeypatch)
    cache.batch(["sub-2"] * 5)
    assert reads == ["sub-2"] * 3, "at the third time it had been asked for more often than sub-1"
    cache.batch(["sub-0", "sub-1", "sub-2"])
    assert reads[3:] == ["sub-1"]
    assert cache.nbytes == 240


def test_a_stream_gives_the_batches_in_order_whether_they_fit_or_not(tmp_path):
    paths = make_files(tmp_path)
    groups = [["sub-0"], ["sub-2", "sub-1"], [], ["sub-0", "sub-1"]]
    plain = [VolumeCache(paths, shape=(4, 5, 6)).batch(group) for group in groups]
    assert list(VolumeCache(paths).stream([])) == []
    for most in (0, 120, 1000):
        cache = VolumeCache(paths, shape=(4, 5, 6), max_bytes=most)
        for _ in range(2):
            for images, expected in zip(cache.stream(groups), plain, strict=True):
                np.testing.assert_array_equal(images, expected)
        assert cache.nbytes == min(most, 360)


def test_a_stream_reads_one_batch_ahead_and_says_what_is_wrong_with_it_in_its_turn(tmp_path, monkeypatch):
    paths = make_files(tmp_path)
    paths["sub-1"].write_bytes(b"no image")
    cache = VolumeCache(paths)
    stream = cache.stream([["sub-0"], ["sub-2"], ["sub-1"]])
    assert len(next(stream)) == len(next(stream)) == 1
    with pytest.raises(ValueError, match="subject 'sub-1'"):
        next(stream)


def test_a_volume_larger_than_the_cache_is_read_every_time(tmp_path):
    cache = VolumeCache(make_files(tmp_path), max_bytes=119)
    assert cache["sub-0"].shape == (4, 5, 6)
    assert cache.nbytes == 0


def test_cached_arrays_cannot_be_changed_by_accident(tmp_path):
    cache = VolumeCache(make_files(tmp_path))
    with pytest.raises(ValueError, match="read-only"):
        cache["sub-0"][0, 0, 0] = 1


def test_mixed_shapes_name_both_subjects(tmp_path):
    paths = make_files(tmp_path, 2) | {"sub-odd": save(tmp_path / "odd.nii.gz", make_array((4, 5, 7)))}
    cache = VolumeCache(paths)
    with pytest.raises(ValueError, match=r"'sub-odd'.*odd.nii.gz.*\(4, 5, 7\); expected \(4, 5, 6\).*'sub-0'"):
        cache.check()


def test_the_check_reads_all_keeps_nothing_and_names_the_first_bad_one(tmp_path):
    paths = make_files(tmp_path)
    cache = VolumeCache(paths)
    cache.check()
    assert cache.nbytes == 0
    make_nan(paths["sub-1"])
    make_cut_gzip(paths["sub-2"])
    with pytest.raises(ValueError, match="'sub-1'.*NaN"):
        cache.check()


def test_an_unknown_subject_an_unmet_shape_and_no_paths_are_refused(tmp_path):
    paths = make_files(tmp_path, 1)
    with pytest.raises(KeyError, match="'sub-9'.*expected"):
        VolumeCache(paths)["sub-9"]
    with pytest.raises(ValueError, match=r"'sub-0'.*expected \(9, 9, 9\)"):
        VolumeCache(paths, shape=(9, 9, 9)).check()
    with pytest.raises(ValueError, match="no paths; expected"):
        VolumeCache({})


def test_rescaling_by_hand():
    array = np.array([[[-5.0, 0.0, 10.0, 25.0, 99.0]]])
    np.testing.assert_array_equal(rescale_to_uint8(array, upper=25.0), [[[0, 0, 102, 255, 255]]])
    np.testing.assert_array_equal(rescale_to_uint8(array, lower=10.0, upper=20.0), [[[0, 0, 0, 255, 255]]])
    positive = np.arange(1, 1002, dtype=float)
    assert rescale_to_uint8(positive)[999] == 255
    assert rescale_to_uint8(positive)[399] == 102


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.array([1.0, np.nan]), {}, "NaN or infinite"),
        (np.zeros(3), {}, "no positive value"),
        (np.ones(3), {"lower": 5.0}, "expected upper above lower"),
        (np.ones(3), {"lower": 1.0, "upper": 1.0}, "expected upper above lower"),
    ],
)
def test_rescaling_refuses_what_has_no_scale(array, options, message):
    with pytest.raises(ValueError, match=message):
        rescale_to_uint8(array, **options)


def test_objects_show_themselves_in_a_line(tmp_path):
    assert "4 x 5 x 6" in Volume(make_array(), AFFINE)._repr_html_()
    assert "3 subjects" in VolumeCache(make_files(tmp_path))._repr_html_()
