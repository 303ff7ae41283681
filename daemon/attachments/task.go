package attachments

import "time"

// never says that a task is not to be repeated by itself.
const never = time.Duration(-1)

// task is work that is due at some time, if at all, and is begun no more often than its spacing says.
type task struct {
	spacing time.Duration
	timer   *time.Timer
	due     time.Time // zero when the task is not wanted
	last    time.Time // its last beginning
}

func newTask(spacing time.Duration) *task {
	t := &task{spacing: spacing, timer: time.NewTimer(time.Hour)}
	t.timer.Stop()
	return t
}

// in has the task become due after d, unless it is due sooner; never changes nothing.
func (t *task) in(d time.Duration) {
	if d == never {
		return
	}
	due := time.Now().Add(d)
	if earliest := t.last.Add(t.spacing); due.Before(earliest) {
		due = earliest
	}
	if !t.due.IsZero() && !due.Before(t.due) {
		return
	}
	t.due = due
	t.timer.Reset(time.Until(due))
}

// C delivers when the task is due.
func (t *task) C() <-chan time.Time { return t.timer.C }

func (t *task) began() { t.due, t.last = time.Time{}, time.Now() }

func (t *task) stop() { t.timer.Stop() }
