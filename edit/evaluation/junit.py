"""Verdicts of the gate as JUnit XML, as Jenkins and GitLab read it."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from bandstop.edit.evaluation.gate import Verdict

# characters that XML 1.0 has no way to hold (section 2.2)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(verdicts: Sequence[Verdict], subject: str) -> bytes:
    """Return the XML with one test case a rule; the same verdicts give the same bytes.

    Args:
        verdicts: in their order. The line of one that passed is the output of its test case.
        subject: the network that was judged, which names the suite.
    """
    outcomes = [verdict.outcome for verdict in verdicts]
    counts = {
        "name": _legal(f"bandstop gate: {subject}"),
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("missed")),
        "errors": "0",
        "time": "0",
    }
    suites = ET.Element("testsuites", counts)
    skipped = str(outcomes.count("skipped"))  # no attribute of the root in Jenkins's schema
    suite = ET.SubElement(suites, "testsuite", {**counts, "skipped": skipped})
    for verdict in verdicts:
        suite.append(_testcase(verdict, subject))
    ET.indent(suites)
    text: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _testcase(verdict: Verdict, subject: str) -> ET.Element:
    line = _legal(verdict.line)
    classname = _legal(f"bandstop.gate.{subject}")
    case = ET.Element(
        "testcase", {"classname": classname, "name": _legal(verdict.rule.name), "time": "0"}
    )
    if verdict.outcome == "missed":
        ET.SubElement(case, "failure", {"message": line, "type": "missed"}).text = line
    elif verdict.outcome == "skipped":
        ET.SubElement(case, "skipped", {"message": line})
    else:
        ET.SubElement(case, "system-out").text = line
    return case


def _legal(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
