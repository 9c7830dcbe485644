"""Locations and key rings: what holds the keys. Guide step 1."""

from __future__ import annotations

from google.cloud import kms_v1
from google.cloud.location import locations_pb2

from sandbox.iam_access import authorize, check_service
from sandbox.identities import Identity
from sandbox.kms_errors import already_exists, not_found
from sandbox.kms_lists import paginate
from sandbox.kms_locations import LOCATIONS
from sandbox.kms_names import canonical, check_id, location_of, project_of
from sandbox.world import World


def list_locations(
    world: World, caller: Identity, request: locations_pb2.ListLocationsRequest
) -> locations_pb2.ListLocationsResponse:
    """All locations of Cloud KMS; needs no permission."""
    project = canonical(world, request.name, "Project", "cloudkms.locations.list")
    check_service(world, caller, project)
    page = paginate(
        [_location(world, f"{project}/locations/{location}") for location in LOCATIONS],
        project,
        request,
    )
    return locations_pb2.ListLocationsResponse(
        locations=page.items, next_page_token=page.next_page_token
    )


def get_location(
    world: World, caller: Identity, request: locations_pb2.GetLocationRequest
) -> locations_pb2.Location:
    """One location with what it offers; needs no permission."""
    name = canonical(world, request.name, "Location", "cloudkms.locations.get")
    check_service(world, caller, name)
    return _location(world, name)


def _location(world: World, name: str) -> locations_pb2.Location:
    location_id = location_of(name)
    location = locations_pb2.Location(name=name, location_id=location_id, display_name=location_id)
    metadata = kms_v1.LocationMetadata(
        hsm_available=location_id not in world.kms.locations_without_hsm,
        ekm_available=location_id != "global",
    )
    location.metadata.Pack(kms_v1.LocationMetadata.pb(metadata))
    return location


def create_key_ring(
    world: World, caller: Identity, request: kms_v1.CreateKeyRingRequest
) -> kms_v1.KeyRing:
    """Make a key ring; its name stays taken for ever."""
    permission = "cloudkms.keyRings.create"
    location = canonical(world, request.parent, "Location", permission)
    authorize(world, caller, permission, location)
    name = f"{location}/keyRings/{check_id(request.key_ring_id, 'key_ring_id')}"
    world.kms.constraints.check_location(
        location_of(location), "key ring", project_of(world, location).number
    )
    if name in world.kms.key_rings:
        raise already_exists("KeyRing", name)
    ring = kms_v1.KeyRing(name=name, create_time=world.clock.now())
    world.kms.key_rings[name] = ring
    return ring


def get_key_ring(
    world: World, caller: Identity, request: kms_v1.GetKeyRingRequest
) -> kms_v1.KeyRing:
    """One key ring."""
    permission = "cloudkms.keyRings.get"
    name = canonical(world, request.name, "KeyRing", permission)
    authorize(world, caller, permission, name)
    return find_ring(world, name)


def list_key_rings(
    world: World, caller: Identity, request: kms_v1.ListKeyRingsRequest
) -> kms_v1.ListKeyRingsResponse:
    """A page of the location's key rings."""
    permission = "cloudkms.keyRings.list"
    location = canonical(world, request.parent, "Location", permission)
    authorize(world, caller, permission, location)
    page = paginate(
        [ring for name, ring in world.kms.key_rings.items() if name.startswith(f"{location}/")],
        location,
        request,
    )
    return kms_v1.ListKeyRingsResponse(
        key_rings=page.items, next_page_token=page.next_page_token, total_size=page.total_size
    )


def find_ring(world: World, name: str) -> kms_v1.KeyRing:
    """The stored key ring.

    Raises:
        GoogleError: NOT_FOUND.
    """
    ring = world.kms.key_rings.get(name)
    if ring is None:
        raise not_found("KeyRing", name)
    return ring
