"""Kubeflow: its API client, pods, the steps that pods run, submissions, and TrainJobs.

`submission.KubeflowExecutor` carries out runs there; the components in pipelines/ call `steps`. Besides them, only this
package imports kfp. Imports monitoring, pipeline and what is below them.
"""
