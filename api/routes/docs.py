"""The interactive description of the API, with all its files served from here: it works without the Internet."""

from importlib.resources import files
from typing import Final

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_ASSETS: Final = files("fastapi_standalone_docs") / "static"


def install(app: FastAPI) -> None:
    """Serves /docs and the files it needs."""

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=f"{app.title} {app.version}",
            swagger_js_url=f"{root}/docs/assets/swagger/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/fastapi/favicon.png",
        )

    app.mount("/docs/assets", StaticFiles(directory=str(_ASSETS)))
