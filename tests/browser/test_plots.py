"""Plots from the panel."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import PAGE_LIMIT_MS, fill_small, generate, html
from tests.browser.panel import Panel

pytestmark = pytest.mark.usefixtures("preset_files")


@pytest.fixture
def panel(page: Page) -> Panel:
    return Panel(page).open("lbw_plots")


def test_an_xyz_plot_is_made_and_a_cells_infotext_turns_it_off_again(panel: Panel):
    fill_small(panel.page, "a red cat <lora:demo:1:lbw=OUTD>")
    panel.choose_mode("XYZ plot")
    panel.find("lbw_put_varied").click()
    expect(panel.prompt).to_have_value("a red cat <lora:demo:1:lbw=XYZ>")
    panel.choose("lbw_xtype", "values")
    panel.choose("lbw_ytype", "Block ID")
    panel.fill(lbw_xmen="0,1", lbw_ymen="IN05-OUT05,NOT IN05-OUT05")
    panel.choose("lbw_ztype", "stop")
    panel.fill(lbw_zmen="2")
    generate(panel.page)
    expect(panel.gallery).to_have_count(5, timeout=PAGE_LIMIT_MS)
    expect(panel.find("lbw_status", ".lbw-status")).to_contain_text("XYZ plot: 3 of 3 cells; 1 equal to another")
    panel.gallery.nth(1).click()
    info = html(panel.page, "html_info_txt2img")
    expect(info).to_contain_text(re.compile(r"<lora:demo:1:lbw=1,1,.*,0,0,.*:stop=2>"), timeout=PAGE_LIMIT_MS)
    panel.prompt.fill(info.inner_text())
    panel.page.locator("#txt2img_tools #paste").click()
    expect(panel.find("lbw_mode").get_by_label("Disable", exact=True)).to_be_checked(timeout=PAGE_LIMIT_MS)
    expect(panel.prompt).to_have_value(re.compile(r"^a red cat <lora:demo:1:lbw=1,1,"))


def test_the_analyzer_shows_a_sheet_a_chart_and_a_preset(panel: Panel):
    fill_small(panel.page, "a red cat <lora:demo:1:lbw=XYZ>")
    expect(panel.find("lbw_exmen")).to_be_hidden()
    panel.choose_mode("Effective Block Analyzer")
    expect(panel.find("lbw_xmen")).to_be_hidden()
    panel.fill(lbw_exmen="0,1", lbw_eymen="BASE,M00", diff_thr="5")
    generate(panel.page)
    expect(panel.gallery).to_have_count(2 + 3, timeout=PAGE_LIMIT_MS)
    status = panel.find("lbw_status", ".lbw-status")
    expect(status).to_contain_text(re.compile(r"ANALYZED:[0-9.,]+"))
    expect(status).to_contain_text("Effective Block Analyzer: 3 of 3 cells")


def test_the_hosts_own_plot_has_our_axes(panel: Panel):
    fill_small(panel.page, "a red cat <lora:demo:1>")
    panel.choose("script_list", "X/Y/Z plot")
    panel.choose("script_txt2img_xyz_plot_x_type", "[LBW] stop")
    panel.fill(script_txt2img_xyz_plot_x_values="1,2")
    generate(panel.page)
    expect(panel.find("lbw_status", ".lbw-status")).to_contain_text("demo: steps 0-0 of 4")
