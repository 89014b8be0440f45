package oidctest

import (
	"sync"
	"time"
)

const (
	freeTries  = 5
	tryPause   = 30 * time.Second
	maxTracked = 10_000 // logins; beyond it the slate is wiped, which a toy may do
)

// throttle pauses a login after wrong passwords.
type throttle struct {
	now func() time.Time

	mu    sync.Mutex // guards tries
	tries map[string]attempt
}

type attempt struct {
	wrong int
	until time.Time
}

func (t *throttle) locked(login string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tries[login].until.Sub(t.now())
}

func (t *throttle) wrong(login string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tries == nil || len(t.tries) >= maxTracked {
		t.tries = map[string]attempt{}
	}
	a := t.tries[login]
	if a.wrong++; a.wrong >= freeTries {
		a = attempt{until: t.now().Add(tryPause)}
	}
	t.tries[login] = a
}

func (t *throttle) right(login string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tries, login)
}
