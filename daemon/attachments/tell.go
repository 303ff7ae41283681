package attachments

import (
	"strings"

	"github.com/twill-cni/twill/store"
)

// The reasons of pods' Events.
const (
	reasonLink     = "PodLinkRepaired"
	reasonPorts    = "HostPortsRepaired"
	reasonConflict = "HostPortConflict"
	reasonReleased = "PodReleased"
)

// tell tells of a pod that has the name that Kubernetes gave to it.
func (k *Keeper) tell(pod store.PodRef, e store.Event) {
	if k.opts.Tell == nil || pod.Namespace == "" || pod.Name == "" {
		return
	}
	e.Pod = pod
	k.opts.Tell(e)
}

// refOf returns how Kubernetes knows the pod; without a namespace or a name when it does not.
func refOf(pod, uid string) store.PodRef {
	namespace, name, _ := strings.Cut(pod, "/")
	return store.PodRef{Namespace: namespace, Name: name, UID: uid}
}
