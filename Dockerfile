# One image for the four processes: gateway (the default command), user_service, product_service, order_service.
#
#   docker build -t api-gateway .
#   docker run --rm -p 127.0.0.1:5001:5001 api-gateway
#   docker run --rm api-gateway gunicorn -c user_service/gunicorn.conf.py user_service.wsgi:app

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.txt /
# only wheels: nothing is compiled, so neither stage needs a compiler
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r /requirements.txt
# .dockerignore names what comes along; the modes do not depend on the umask of whoever checked it out
COPY . /app
RUN python -m compileall -q --invalidation-mode unchecked-hash /app \
 && chmod -R u=rwX,go=rX /app

FROM python:3.12-slim
# an empty named volume takes the owner of the folder it is mounted on: so `secrets` in docker-compose.yml needs no root
RUN groupadd --gid 10001 app \
 && useradd --uid 10001 --gid app --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin app \
 && install -d -o app -g app /secrets/postgres /secrets/users /secrets/products /secrets/orders /secrets/gateway
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
EXPOSE 5001
CMD ["gunicorn", "-c", "gateway/gunicorn.conf.py", "gateway.wsgi:app"]
