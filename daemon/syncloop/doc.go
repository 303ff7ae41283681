// Package syncloop runs a sync whenever something came, and keeps how that goes: what package proxy does for Services and package policy for policies.
//
//	changes ──Nudge──► Loop.Run ──sync──► kernel
//	    │                 ▲        │
//	    │ retry, period ──┘        └──Synced──┐
//	    └──Queue──────────────────────────────┴──► Progress: how long has the oldest change been waiting, what was the last error
//
// An EndpointSlice arrives: its taker puts it where the sync finds it, calls Queue, and then Nudge. Run calls the sync, which may find three more
// changes that came meanwhile. It fails, since the kernel is busy; it is called again after 50 ms, then 100 ms. The log has one line about that, and one
// when it works again. Progress says for how long the oldest change has been waiting, from which a daemon's health follows.
//
// What a sync wants for itself, such as a pause when another program keeps changing what it wrote, it returns.
package syncloop
