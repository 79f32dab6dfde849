#!/usr/bin/env bash
# Creates the queue and its dead-letter queue, allows the bucket to send to it, and creates a policy for each role. The account,
# region, bucket and prefix in the JSON files of this folder are examples: replace them first. This script can be run
# again.
set -euo pipefail
cd "$(dirname "$0")"
export AWS_DEFAULT_REGION=eu-west-1
bucket=retrain-example

aws sqs create-queue --queue-name retrain-dead --attributes MessageRetentionPeriod=1209600
queue=$(aws sqs create-queue --queue-name retrain --query QueueUrl --output text)
attributes=$(jq --null-input --rawfile policy queue-policy.json --rawfile redrive redrive.json \
  '{Policy: $policy, RedrivePolicy: $redrive, SqsManagedSseEnabled: "true"}')
aws sqs set-queue-attributes --queue-url "$queue" --attributes "$attributes"
# Notifications of other programs stay: only those with the ids in bucket-notification.json are added or replaced.
notifications=$(aws s3api get-bucket-notification-configuration --bucket "$bucket" --output json | jq --slurp \
  --slurpfile added bucket-notification.json '(.[0] // {}) | .QueueConfigurations =
    [.QueueConfigurations[]? | select(.Id | IN($added[0].QueueConfigurations[].Id) | not)] + $added[0].QueueConfigurations
  | del(.ResponseMetadata)')
aws s3api put-bucket-notification-configuration --bucket "$bucket" --notification-configuration "$notifications"
for role in producer watcher training exporter serving gc; do
  known=$(aws iam list-policies --scope Local --query "Policies[?PolicyName=='retrain-$role'].Arn" --output text)
  if [ -n "$known" ]; then
    echo "$known exists and stays as it is. To change it: aws iam create-policy-version --set-as-default ..."
  else
    aws iam create-policy --policy-name "retrain-$role" --policy-document "file://policy-$role.json"
  fi
done
echo "watcher.queueUrl: $queue"
