output "key_names" {
  description = "Full resource names, the form in which Anthropic knows the keys."
  value       = { for id, key in google_kms_crypto_key.cmek : id => key.id }
}

output "workspace_keys" {
  description = "Which key each workspace uses. A workspace's key can never be changed."
  value = merge([
    for id, key in var.keys : { for workspace in key.workspaces : workspace => google_kms_crypto_key.cmek[id].id }
  ]...)
}
