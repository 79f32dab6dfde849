"""Kubeflow: its API client, pods, the steps that pods run, submissions, and TrainJobs.

`submission.KubeflowExecutor` executes runs on Kubeflow. The components in pipelines/ call `steps`. Only pipelines/ and
this package import kfp. This package imports monitoring, pipeline and the packages below them.
"""
