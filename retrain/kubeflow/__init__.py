"""Kubeflow: its API client, pods, the steps that pods run, submissions, and TrainJobs. Imports pipeline and below."""
