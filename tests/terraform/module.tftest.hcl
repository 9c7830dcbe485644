# Run by the tests next to a generated module: what its variables refuse.

mock_provider "google" {}

variables {
  keys = {
    "acme-kms-prod/us-east5/ring/key" = {
      project                    = "acme-kms-prod"
      location                   = "us-east5"
      key_ring                   = "ring"
      name                       = "key"
      protection_level           = "HSM"
      destroy_scheduled_duration = "2592000s"
      labels                     = { "anthropic-org-3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34" = "true" }
      workspaces                 = ["wrkspc_01abcdef"]
    }
  }
}

run "a_key_in_one_us_region_is_planned" {
  command = plan

  assert {
    condition     = google_kms_crypto_key_iam_member.viewer["acme-kms-prod/us-east5/ring/key"].role == "roles/cloudkms.viewer"
    error_message = "The viewer grant is missing."
  }

  assert {
    condition     = length(google_project_service.cloudkms) + length(google_project_iam_audit_config.cloudkms) + length(google_monitoring_alert_policy.key_threatened) == 0
    error_message = "An option is on by default."
  }
}

run "two_keys_share_their_ring" {
  command = plan

  variables {
    keys = {
      for name in ["one", "two"] : "acme-kms-prod/us-east5/ring/${name}" => {
        project                    = "acme-kms-prod"
        location                   = "us-east5"
        key_ring                   = "ring"
        name                       = name
        protection_level           = "SOFTWARE"
        rotation_period            = "7776000s"
        destroy_scheduled_duration = "86400s"
        labels                     = { "anthropic-org-3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34" = "true" }
      }
    }
  }

  assert {
    condition     = length(google_kms_key_ring.cmek) == 1 && length(google_kms_crypto_key.cmek) == 2
    error_message = "One ring, two keys."
  }
}

run "a_multi_region_is_refused" {
  command = plan

  variables {
    keys = {
      "acme-kms-prod/us/ring/key" = {
        project                    = "acme-kms-prod"
        location                   = "us"
        key_ring                   = "ring"
        name                       = "key"
        protection_level           = "HSM"
        destroy_scheduled_duration = "2592000s"
        labels                     = { "anthropic-org-3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34" = "true" }
      }
    }
  }

  expect_failures = [var.keys]
}

run "a_key_without_the_organization_label_is_refused" {
  command = plan

  variables {
    keys = {
      "acme-kms-prod/us-east5/ring/key" = {
        project                    = "acme-kms-prod"
        location                   = "us-east5"
        key_ring                   = "ring"
        name                       = "key"
        protection_level           = "HSM"
        destroy_scheduled_duration = "2592000s"
        labels                     = { "team" = "payments" }
      }
    }
  }

  expect_failures = [var.keys]
}

run "a_duration_in_days_is_refused" {
  command = plan

  variables {
    keys = {
      "acme-kms-prod/us-east5/ring/key" = {
        project                    = "acme-kms-prod"
        location                   = "us-east5"
        key_ring                   = "ring"
        name                       = "key"
        protection_level           = "HSM"
        rotation_period            = "90d"
        destroy_scheduled_duration = "2592000s"
        labels                     = { "anthropic-org-3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34" = "true" }
      }
    }
  }

  expect_failures = [var.keys]
}

run "an_address_that_is_not_made_of_the_key_is_refused" {
  command = plan

  variables {
    keys = {
      "my-key" = {
        project                    = "acme-kms-prod"
        location                   = "us-east5"
        key_ring                   = "ring"
        name                       = "key"
        protection_level           = "HSM"
        destroy_scheduled_duration = "2592000s"
        labels                     = { "anthropic-org-3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34" = "true" }
      }
    }
  }

  expect_failures = [var.keys]
}
