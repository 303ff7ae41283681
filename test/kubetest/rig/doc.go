// Package rig tests that machines and sites of package kubetest are what they say: a real Kubernetes on them runs Pods, and nothing is left
// of it. These tests take longer than those of the API alone and need what "make kube-node" builds, so they are apart.
package rig
