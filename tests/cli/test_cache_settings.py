"""The settings of the cache's policies: what they mean, and what an operator is told about a wrong one."""

import pytest

from app import main
from app.cache.policies import WritePolicy
from app.settings import PRODUCTS_CACHE, WRITE_POLICIES, Settings, SettingsError, namespace_of


def test_policies_have_the_names_of_the_cache() -> None:
    """The settings, which do not know the cache, list its policies."""
    assert set(WRITE_POLICIES) == {policy.value for policy in WritePolicy}


@pytest.mark.parametrize(
    ("given", "policy", "bypassed"),
    [
        ({}, WritePolicy.THROUGH, False),
        ({"LARDER_WRITES": "products=aside"}, WritePolicy.ASIDE, False),
        ({"LARDER_WRITES": " products = update ,"}, WritePolicy.UPDATE, False),
        ({"LARDER_CACHE_OFF": "products"}, WritePolicy.THROUGH, True),
    ],
)
def test_policy_of_products(given: dict[str, str], policy: WritePolicy, *, bypassed: bool) -> None:
    """A policy and the switch are read for the cache of products."""
    settings = Settings.from_env(given)
    entity = main.products_of(settings)
    assert (entity.writes, entity.bypassed) == (policy, bypassed)
    assert Settings.from_env(settings.as_env()) == settings


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"LARDER_WRITES": "products=behind"},
            "writes has no policy 'behind' for products: write products= and one of through, update, aside, around",
        ),
        (
            {"LARDER_WRITES": "products"},
            "writes has no policy '' for products: write products= and one of through, update, aside, around",
        ),
        (
            {"LARDER_WRITES": "produce=aside"},
            "writes names no cache 'produce': the caches are products; write for example products=update",
        ),
        ({"LARDER_WRITES": "products=aside,products=update"}, "writes has two policies for products: keep one of them"),
        (
            {"LARDER_CACHE_OFF": "yes"},
            "cache_off names no cache 'yes': write products, or leave it empty to use the cache",
        ),
    ],
)
def test_wrong_setting_is_refused_with_its_cure(given: dict[str, str], sentence: str) -> None:
    """A wrong name or policy stops the service before it listens, with a sentence that says what to write instead."""
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(given)
    assert str(refused.value) == sentence


def test_namespaces_of_several_caches() -> None:
    """One setting names them all: the products' as it is, every other one after it."""
    settings = Settings.from_env({"LARDER_CACHE_NAMESPACE": "shop.2"})
    assert main.products_of(settings).namespace == namespace_of(settings.cache_namespace, PRODUCTS_CACHE) == "shop.2"
    assert namespace_of(settings.cache_namespace, "suppliers") == "shop.2-suppliers"
    assert main.products_of(Settings.from_env({})).namespace == "products.1"
