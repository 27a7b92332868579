"""The application, for `gunicorn -c order_service/gunicorn.conf.py order_service.wsgi:app`."""

from order_service import create_app

app = create_app()
