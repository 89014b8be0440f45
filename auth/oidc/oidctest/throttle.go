package oidctest

import (
	"sync"
	"time"
)

const (
	freeAttempts = 5
	lockPause    = 30 * time.Second
	maxTracked   = 10_000 // logins; beyond it all are forgotten, which is enough for tests and the demo
)

// throttle locks a login for a while after wrong passwords. It is safe for concurrent use.
type throttle struct {
	now func() time.Time

	mu       sync.Mutex // guards attempts
	attempts map[string]attempt
}

// attempt counts the wrong passwords for one login.
type attempt struct {
	wrong       int // in a row
	lockedUntil time.Time
}

// lockedFor returns how long the login is still locked; zero or less means that it is not.
func (t *throttle) lockedFor(login string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.attempts[login].lockedUntil.Sub(t.now())
}

// recordFailure counts a wrong password. After freeAttempts in a row it locks the login for lockPause and
// counts from zero again.
func (t *throttle) recordFailure(login string) {
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

// recordSuccess forgets the wrong passwords for the login.
func (t *throttle) recordSuccess(login string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.attempts, login)
}
