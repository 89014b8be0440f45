package oidctest

import (
	"sync"
	"time"
)

const (
	freeAttempts = 5
	lockPause    = 30 * time.Second
	maxTracked   = 10_000 // logins; beyond it the slate is wiped, which a toy may do
)

// throttle pauses a login after wrong passwords.
type throttle struct {
	now func() time.Time

	mu       sync.Mutex // guards tries
	attempts map[string]attempt
}

type attempt struct {
	wrong       int
	lockedUntil time.Time
}

func (t *throttle) lockedFor(login string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.attempts[login].lockedUntil.Sub(t.now())
}

func (t *throttle) failed(login string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attempts == nil || len(t.attempts) >= maxTracked {
		t.attempts = map[string]attempt{}
	}
	a := t.attempts[login]
	if a.wrong++; a.wrong >= freeAttempts {
		a = attempt{lockedUntil: t.now().Add(lockPause)}
	}
	t.attempts[login] = a
}

func (t *throttle) succeeded(login string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.attempts, login)
}
