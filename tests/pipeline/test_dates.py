"""Dates in names: found where they are, not where ids look like them."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dates import date_in_tag, date_in_text, date_of_file, select_date
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("m_4709963_se_14_1_20100629", "2010-06-29"),
        ("m_4709963_se_14_060_20180720_20181211", "2018-07-20"),
        ("20200925_161029_69_2223_3B_AnalyticMS_SR", "2020-09-25"),
        ("global_monthly_2021_02_mosaic", "2021-02"),
        ("planet_medres_normalized_analytic_2021-03_mosaic", "2021-03"),
        ("planet_medres_normalized_analytic_2016-06_2016-11_mosaic", "2016-06"),
        ("ps_weekly_sen2_normalized_analytic_8b_sr_subscription_2024-07-15_2024-07-22_mosaic", "2024-07-15"),
        ("LC08_L1TP_038034_20150617_20170226_01_T1", "2015-06-17"),
        ("S2A_MSIL2A_20200103T105431_N0213_R051", "2020-01-03"),
        ("1056417_2017-03-08_RE3_3A_Visual_clip", "2017-03-08"),
        ("quad_2020_02_29", "2020-02-29"),
        ("L15-0639E-0942N", None), ("0639-0941", None), ("2016-1180", None), ("m_4709963_se_14_1", None),
        ("wv_1m_2014-m_3708020_sw_17_1-0_naip_new", None), ("20101345_x", None), ("quad_2021-02-30", None),
        ("scene_19711231", None), ("scene_21010101", None), ("120200925", None), ("202009251", None),
        ("v1.2021-03", None),
    ],
)  # fmt: skip
def test_names(name, date):
    assert date_in_text(name) == date


@settings(deadline=None, max_examples=60)
@given(
    st.dates(datetime.date(1972, 1, 1), datetime.date(2100, 12, 31)),
    st.sampled_from(["%Y%m%d", "%Y-%m-%d", "%Y_%m_%d"]),
    st.sampled_from(["a_{}_b", "{}", "x{}T101112", "{}_161029"]),
)
def test_every_day_is_found_in_every_spelling(day, spelling, frame):
    assert date_in_text(frame.format(day.strftime(spelling))) == day.isoformat()


def test_name_goes_before_folder_before_tag():
    tag = "2020:09:25 16:10:29"
    assert date_of_file(Path("/x/mosaic_2021-03/scene_20120731.tif"), tag) == "2012-07-31"
    assert date_of_file(Path("/x/mosaic_2021-03/0639-0941.tif"), tag) == "2021-03"
    assert date_of_file(Path("/2021-03/x/0639-0941.tif"), tag) == "2020-09-25"
    assert date_of_file(Path("/x/0639-0941.tif")) is None
    assert date_in_tag("yesterday") is None


DATES = ["2010-06-29", "2012-07-31", "2012-07-31", "2014-07", None]
NAMES = list("abcde")


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        ("2012", [1, 2]),
        ("2012-07", [1, 2]),
        ("2012-07-31", [1, 2]),
        ("20120731", [1, 2]),
        ("2014-07", [3]),
        ("any", [0, 1, 2, 3, 4]),
    ],
)
def test_a_date_selects(request_, kept):
    assert select_date(DATES, request_, NAMES) == kept


def test_one_date_goes_with_files_that_have_none():
    assert select_date([None, "2012-07-31", None], None, NAMES) == [0, 1, 2]
    assert select_date([None, None], None, NAMES) == [0, 1]


def test_several_dates_are_listed():
    with pytest.raises(InputError, match="2010-06-29, 2012-07-31, 2014-07; choose with --date"):
        select_date(DATES, None, NAMES)
    with pytest.raises(InputError, match=r"have 2 dates.*: 2012-06, 2012-07; choose"):
        select_date(["2012-06", "2012-07"], "2012", NAMES)
    with pytest.raises(InputError, match="2000-12 and 18 more"):
        select_date([f"{y}-{m:02d}" for y in (2000, 2001) for m in range(1, 13)] + ["2002-01"] * 1
                    + [f"2003-{m:02d}" for m in range(1, 6)], None, ["x"] * 30)  # fmt: skip


def test_dates_that_no_file_has_or_that_are_none():
    with pytest.raises(InputError, match=r"--date 2013: no file .*found: 2010-06-29, 2012-07-31, 2014-07"):
        select_date(DATES, "2013", NAMES)
    with pytest.raises(InputError, match="found: none in the names or tags"):
        select_date([None], "2013", NAMES)
    with pytest.raises(InputError, match="--date 'July': is no date; expected 2012, 2012-07"):
        select_date(DATES, "July", NAMES)
