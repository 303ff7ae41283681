package manifest

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// DefaultNamespace is where objects are that name none.
const DefaultNamespace = metav1.NamespaceDefault

// defaultAffinity is how long, in seconds, a client keeps its endpoint when the manifest does not say.
const defaultAffinity = corev1.DefaultClientIPServiceAffinitySeconds

// defaultMeta sets the namespace and takes out what is the server's to say, so that what "kubectl get -o yaml" printed can be applied.
func defaultMeta(m *metav1.ObjectMeta) {
	if m.Namespace == "" {
		m.Namespace = DefaultNamespace
	}
	serverMeta(m)
}

// serverMeta takes out what is the server's to say.
func serverMeta(m *metav1.ObjectMeta) {
	m.UID, m.ResourceVersion, m.Generation, m.ManagedFields = "", "", 0, nil
	m.CreationTimestamp, m.DeletionTimestamp, m.DeletionGracePeriodSeconds = metav1.Time{}, nil, nil
	m.OwnerReferences, m.Finalizers = nil, nil
}

// DefaultService sets what the manifest leaves out as the API server does (k8s.io/kubernetes pkg/apis/core/v1/defaults.go), but for what depends
// on other objects; see Complete.
func DefaultService(svc *corev1.Service) {
	svc.APIVersion, svc.Kind = "v1", KindService
	defaultMeta(&svc.ObjectMeta)
	spec := &svc.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	if spec.SessionAffinity == corev1.ServiceAffinityNone {
		spec.SessionAffinityConfig = nil
	} else if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(defaultAffinity)}}
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if external(spec) && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.InternalTrafficPolicy == nil && spec.Type != corev1.ServiceTypeExternalName {
		spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && spec.AllocateLoadBalancerNodePorts == nil {
		spec.AllocateLoadBalancerNodePorts = new(true)
	}
	for i := range svc.Status.LoadBalancer.Ingress {
		if in := &svc.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
			in.IPMode = new(corev1.LoadBalancerIPModeVIP)
		}
	}
	// clusterIP is the first of clusterIPs, whichever of the two is given.
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	} else if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
}

// external reports whether the Service is reached from outside of the cluster other than by externalIPs.
func external(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
}

// DefaultEndpointSlice sets what the manifest leaves out as the API server does.
func DefaultEndpointSlice(slice *discoveryv1.EndpointSlice) {
	slice.APIVersion, slice.Kind = "discovery.k8s.io/v1", KindEndpointSlice
	defaultMeta(&slice.ObjectMeta)
	for i := range slice.Ports {
		p := &slice.Ports[i]
		if p.Name == nil {
			p.Name = new("")
		}
		if p.Protocol == nil {
			p.Protocol = new(corev1.ProtocolTCP)
		}
	}
	if slice.Endpoints == nil {
		slice.Endpoints = []discoveryv1.Endpoint{}
	}
	if slice.Ports == nil {
		slice.Ports = []discoveryv1.EndpointPort{}
	}
}
