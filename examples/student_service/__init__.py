"""A service that knows nothing of the gateway: plain Flask, a handful of students in memory.

gunicorn -b 127.0.0.1:5005 'examples.student_service:create_app()'
"""

from __future__ import annotations

from flask import Flask, Response, jsonify, request

STUDENTS = {1: "Ada", 2: "Grace", 3: "Edsger"}


def create_app() -> Flask:
    app = Flask(__name__)
    app.url_map.strict_slashes = False

    @app.get("/students/")
    def students() -> Response:
        # the gateway says who calls; from anybody else these fields would mean nothing
        caller = request.headers.get("X-User-Name", "nobody")
        return jsonify(students=[{"id": key, "name": name} for key, name in STUDENTS.items()], asked_by=caller)

    @app.get("/students/<int:student_id>")
    def student(student_id: int) -> tuple[Response, int]:
        if student_id not in STUDENTS:
            return jsonify(error="no such student"), 404
        return jsonify(id=student_id, name=STUDENTS[student_id]), 200

    @app.get("/health")
    def health() -> Response:
        return jsonify(status="ok")

    return app
