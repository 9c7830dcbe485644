variable "keys" {
  description = <<-EOT
    Keys that Anthropic workspaces use, by PROJECT/LOCATION/KEY_RING/NAME. The values must be those
    of the live key: protection_level and destroy_scheduled_duration can never be changed, and a
    different value makes Terraform want to replace the key, which prevent_destroy then refuses.
    Durations are seconds, as in "7776000s"; no rotation_period means no automatic rotation.
  EOT
  type = map(object({
    project                    = string
    location                   = string
    key_ring                   = string
    name                       = string
    protection_level           = string
    rotation_period            = optional(string)
    destroy_scheduled_duration = string
    labels                     = map(string)
    workspaces                 = optional(list(string), [])
  }))

  validation {
    condition     = alltrue([for key in var.keys : can(regex("^us-[a-z]+[0-9]+$", key.location))])
    error_message = "Anthropic supports keys in one US region only, such as us-east5; not us, global or another multi-region."
  }

  validation {
    condition     = alltrue([for key in var.keys : contains(["HSM", "SOFTWARE"], key.protection_level)])
    error_message = "The protection level must be HSM or SOFTWARE."
  }

  validation {
    condition = alltrue([
      for id, key in var.keys : id == "${key.project}/${key.location}/${key.key_ring}/${key.name}"
    ])
    error_message = "Each key must stand under PROJECT/LOCATION/KEY_RING/NAME: its address in the state is made of it."
  }

  validation {
    condition = alltrue(flatten([
      for key in var.keys : [
        for duration in [key.rotation_period, key.destroy_scheduled_duration] :
        duration == null || can(regex("^[0-9]+([.][0-9]{1,9})?s$", coalesce(duration, "-")))
      ]
    ]))
    error_message = "Durations are seconds with an s at the end, such as 7776000s."
  }

  validation {
    condition = alltrue([
      for key in var.keys : anytrue([
        for label, value in key.labels : startswith(label, "anthropic-org-") && value == "true"
      ])
    ])
    error_message = "Each key needs the label anthropic-org-<organization UUID> = \"true\": without it Anthropic can't use the key."
  }
}

variable "enable_kms_service" {
  description = "Also manage that the Cloud KMS API is on in the keys' projects. Destroying leaves it on."
  type        = bool
  default     = false
}

variable "enable_audit_logs" {
  description = <<-EOT
    Also manage the Data Access audit logs of Cloud KMS in the keys' projects. Authoritative for
    that service: exempted members and log types set elsewhere for cloudkms.googleapis.com in the
    same project are replaced, so look at them first.
  EOT
  type        = bool
  default     = false
}

variable "audit_log_types" {
  description = "What is logged when enable_audit_logs is on. Anthropic's reads of the key are ADMIN_READ."
  type        = list(string)
  default     = ["ADMIN_READ", "DATA_READ", "DATA_WRITE"]
}

variable "enable_alert" {
  description = "Also alert when a version of a key is destroyed or disabled, or a key's IAM policy changes."
  type        = bool
  default     = false
}

variable "alert_notification_channels" {
  description = "Whom to tell, as projects/PROJECT/notificationChannels/ID; a channel must be in the key's project."
  type        = list(string)
  default     = []
}
