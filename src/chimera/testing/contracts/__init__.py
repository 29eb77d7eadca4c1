"""One contract suite per port, run unchanged against every engine.

Subclass a suite in a test module; pytest and pytest-asyncio (mode `auto`) do the rest:

    class TestSQLiteLog(LogContract):
        @pytest.fixture
        def reopen(self, tmp_path):
            return lambda: SQLiteLog(tmp_path)

        @pytest.fixture
        async def engine(self, reopen):
            log = reopen()
            yield log
            await log.close()

`engine`, always needed: an engine that holds nothing and on which `create` was not called; the fixture closes it.
`reopen`, needed when `features.durable` or `features.shared`: a function that makes one more engine on the same data;
the suite creates and closes what it makes, and closes `engine` early where an engine must be gone (closing twice
must do no harm). Without `reopen` the tests that need it do not exist.
`patience_s`, a class attribute, is how long the suite waits for what must happen.
"""

from chimera.testing.contracts.log import LogContract
from chimera.testing.contracts.owner import OwnerContract
from chimera.testing.contracts.store import StoreContract
from chimera.testing.contracts.views import ViewStoreContract

__all__ = ["LogContract", "OwnerContract", "StoreContract", "ViewStoreContract"]
