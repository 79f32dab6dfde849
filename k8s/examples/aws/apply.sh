#!/usr/bin/env bash
# Makes the queue (with one for dead letters), lets the bucket send to it, and makes a policy for each role. The account,
# region, bucket and prefix in the JSON files beside this one are examples: replace them first.
set -euo pipefail
cd "$(dirname "$0")"
export AWS_DEFAULT_REGION=eu-west-1

aws sqs create-queue --queue-name retrain-dead --attributes MessageRetentionPeriod=1209600
queue=$(aws sqs create-queue --queue-name retrain --query QueueUrl --output text)
attributes=$(jq --null-input --rawfile policy queue-policy.json --rawfile redrive redrive.json \
  '{Policy: $policy, RedrivePolicy: $redrive, SqsManagedSseEnabled: "true"}')
aws sqs set-queue-attributes --queue-url "$queue" --attributes "$attributes"
# This replaces every notification that the bucket has.
aws s3api put-bucket-notification-configuration --bucket retrain-example \
  --notification-configuration file://bucket-notification.json
for role in producer watcher training exporter serving gc; do
  aws iam create-policy --policy-name "retrain-$role" --policy-document "file://policy-$role.json"
done
echo "watcher.queueUrl: $queue"
