"""The application, for `gunicorn -c product_service/gunicorn.conf.py product_service.wsgi:app`."""

from product_service import create_app

app = create_app()
