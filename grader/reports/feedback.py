"""Writes each student's page; what cannot be shown of one student costs no other one a page."""

from pathlib import Path

from grader.course import Course, is_safe_name
from grader.gradebook.final_scores import Book, read_book
from grader.notebooks import InvalidNotebookError, read_notebook
from grader.reports.stored_results import one_line, read_stored
from grader.reports.student_page import render, unshown
from grader.results import NoRoomError, Result, replacing


def write(course: Course, lab: str) -> tuple[list[Path], list[str]]:
    """Write everybody's page.

    Returns:
        The pages' paths, and a sentence for each student of whom not all could be shown.

    Raises:
        ValueError: Nothing was graded.
        NoRoomError: The disk is full.
    """
    stored, book = read_stored(course, lab), read_book(course, lab)
    results = {result.student: result for result in stored.results}
    pages, problems = [], []
    for student in sorted({*results, *stored.unreadable}):
        html, problem = unshown(lab), stored.unreadable.get(student, "")
        if student in results:
            html, problem = _page(course, results[student], book)
        try:
            pages += _put(course, lab, student, html)
        except NoRoomError:
            raise
        except OSError as error:
            problem = f"the page cannot be written: {error}"
        problems += [f"{student}: {problem}"] if problem else []
    return pages, problems


def _page(course: Course, result: Result, book: Book) -> tuple[str, str]:
    """A student's page, and what it lacks; what nobody has foreseen costs only this one."""
    notebook, lacks = None, ""
    path = course.autograded(result.lab, result.student)
    try:
        notebook = read_notebook(path) if result.cells and path.is_file() else None
    except InvalidNotebookError as error:
        lacks = f"the page shows no code, because in autograded/ {error}"
    final, entry = book.final(result), book.entries.get(result.student)
    try:
        return render(result, notebook, final, entry, lacks_code=bool(lacks)), lacks
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}")
        return unshown(result.lab), f"the page shows nothing ({why}): please report this"


def _put(course: Course, lab: str, student: str, html: str) -> list[Path]:
    """Write a page; there is none for a file that is called as no student may be."""
    if not is_safe_name(student):
        return []
    path = course.feedback(lab, student)
    with replacing(path) as part:
        part.write_text(html, encoding="utf-8")
    return [path]
