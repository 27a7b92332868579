"""The application, for `gunicorn -c user_service/gunicorn.conf.py user_service.wsgi:app`."""

from user_service import create_app

app = create_app()
