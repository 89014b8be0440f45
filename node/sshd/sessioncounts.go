package sshd

import (
	"fmt"
	"sync"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// sessionCounts counts the sessions of each user on this node, over all connections, certificates and logins.
type sessionCounts struct {
	mu       sync.Mutex // guards sessions
	sessions map[userKey]int
}

// userKey identifies a user for good: names change, a connector's subject does not.
type userKey struct{ connector, subject string }

func userKeyOf(who identity.Identity) userKey { return userKey{who.Connector, who.Subject} }

// add counts one more session, unless the limit is reached.
func (p *sessionCounts) add(who identity.Identity, limit access.Limit[int], node string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.sessions[userKeyOf(who)]
	if limit.Rule != "" && n >= limit.Value {
		msg := fmt.Sprintf("%s has %d sessions on %s, and %s allows %d",
			who.Name, n, node, limit.Rule, max(limit.Value, 0))
		return fault.New(fault.Exhausted, "node", msg, "end another session first")
	}
	if p.sessions == nil {
		p.sessions = map[userKey]int{}
	}
	p.sessions[userKeyOf(who)] = n + 1
	return nil
}

// remove takes back one add.
func (p *sessionCounts) remove(who identity.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sessions[userKeyOf(who)]--; p.sessions[userKeyOf(who)] <= 0 {
		delete(p.sessions, userKeyOf(who))
	}
}
