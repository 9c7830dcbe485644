locals {
  projects = toset([for key in var.keys : key.project])

  # Cloud Monitoring takes 8,192 characters of documentation, and many workspaces may share a key.
  named_workspaces = {
    for id, key in var.keys : id => join("", [
      join(", ", slice(key.workspaces, 0, min(50, length(key.workspaces)))),
      length(key.workspaces) > 50 ? " and ${length(key.workspaces) - 50} more" : "",
    ])
  }
}

resource "google_project_service" "cloudkms" {
  for_each = var.enable_kms_service ? local.projects : []

  project            = each.value
  service            = "cloudkms.googleapis.com"
  disable_on_destroy = false
}

resource "google_project_iam_audit_config" "cloudkms" {
  for_each = var.enable_audit_logs ? local.projects : []

  project = each.value
  service = "cloudkms.googleapis.com"

  dynamic "audit_log_config" {
    for_each = toset(var.audit_log_types)

    content {
      log_type = audit_log_config.value
    }
  }
}

resource "google_monitoring_alert_policy" "key_threatened" {
  for_each = var.enable_alert ? var.keys : {}

  project               = each.value.project
  display_name          = "Anthropic CMEK ${each.value.name} destroyed, disabled or changed"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = var.alert_notification_channels

  conditions {
    display_name = "Destroy, disable, delete, update or IAM change of ${each.value.name}"

    condition_matched_log {
      filter = join("\n", [
        "logName=\"projects/${each.value.project}/logs/cloudaudit.googleapis.com%2Factivity\"",
        "protoPayload.serviceName=\"cloudkms.googleapis.com\"",
        "protoPayload.methodName=~\"(^|[.])(${join("|", local.threatening_methods)})$\"",
        "protoPayload.resourceName=~\"/locations/${each.value.location}/keyRings/${each.value.key_ring}(/cryptoKeys/${each.value.name}(/cryptoKeyVersions/[0-9]+)?)?$\"",
      ])
    }
  }

  alert_strategy {
    auto_close = "604800s"

    notification_rate_limit {
      period = "300s"
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Anthropic workspaces ${local.named_workspaces[each.key]} need every version of this key. A version that is scheduled for destruction can be restored until its destroy time, then enabled: `gcloud kms keys versions restore VERSION --key=${each.value.name} --keyring=${each.value.key_ring} --location=${each.value.location} --project=${each.value.project}`, then the same with `enable`."
  }
}
