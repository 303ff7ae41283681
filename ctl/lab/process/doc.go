// Package process starts programs that outlive their starter, and finds and ends them later, perhaps from another process.
//
//	Start   exec -> pidfile "PID STARTTIME"
//	Read    pidfile -> ID; an ID stands for one process for ever, however often its PID is given out again
//	Inside  every process whose network namespace is one of these, started by whomever
//
// A process is awaited and signalled by pidfd: no polling, no signal to a stranger that got the PID.
package process
