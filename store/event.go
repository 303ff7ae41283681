package store

// Event is something that people should know who look at a node or a pod: `kubectl describe` shows it.
type Event struct {
	Pod     PodRef // that it is about; zero: about this node
	Warning bool   // somebody may have to act
	Reason  string // one word in CamelCase, for those who sort Events
	Message string // a sentence
}

// PodRef names a pod as its container runtime does.
type PodRef struct {
	Namespace, Name string
	UID             string // empty when it is not known; `kubectl describe pod` finds only Events that have it
}
