// Package config reads the file of --proxy-config: a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), so that a cluster's file for
// kube-proxy serves Twill as it is.
//
//	file --Parse--> Config + Unsupported: the keys that mean something to kube-proxy, were set, and mean nothing here
//
// A key that no KubeProxyConfiguration has is an error, since it is a typing error most of the time. A key that Twill does not act upon is
// named, with the reason, for the log: nobody is to wonder why it has no effect. A file written by kubeadm holds every key there is; what
// it leaves at null, zero or the empty value is not reported.
package config
