locals {
  # Anthropic's published identity; never take another one from anywhere.
  anthropic = "serviceAccount:anthropic-cmek-client-us@gcp-anthropic-cmek-clients.iam.gserviceaccount.com"

  key_rings = {
    for key in var.keys : "${key.project}/${key.location}/${key.key_ring}" => key...
  }
}

resource "google_kms_key_ring" "cmek" {
  for_each = local.key_rings

  project  = each.value[0].project
  location = each.value[0].location
  name     = each.value[0].key_ring

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_kms_crypto_key" "cmek" {
  for_each = var.keys

  key_ring                   = google_kms_key_ring.cmek["${each.value.project}/${each.value.location}/${each.value.key_ring}"].id
  name                       = each.value.name
  purpose                    = "ENCRYPT_DECRYPT"
  rotation_period            = each.value.rotation_period
  destroy_scheduled_duration = each.value.destroy_scheduled_duration
  labels                     = each.value.labels

  version_template {
    algorithm        = "GOOGLE_SYMMETRIC_ENCRYPTION"
    protection_level = each.value.protection_level
  }

  # Destroying it would schedule the destruction of every version, and with them of the data.
  lifecycle {
    prevent_destroy = true
  }
}

# Additive: what others may do with the key stays as it is.
resource "google_kms_crypto_key_iam_member" "encrypter_decrypter" {
  for_each = var.keys

  crypto_key_id = google_kms_crypto_key.cmek[each.key].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = local.anthropic
}

resource "google_kms_crypto_key_iam_member" "viewer" {
  for_each = var.keys

  crypto_key_id = google_kms_crypto_key.cmek[each.key].id
  role          = "roles/cloudkms.viewer"
  member        = local.anthropic
}
