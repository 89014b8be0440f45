package sshd

import (
	"fmt"
	"sync"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// people counts the sessions of each person on this node, over all of their connections, certificates and logins.
type people struct {
	mu       sync.Mutex // guards sessions
	sessions map[person]int
}

// person is who somebody is for good: names change, a connector's subject does not.
type person struct{ connector, subject string }

func personOf(who identity.Identity) person { return person{who.Connector, who.Subject} }

// enter counts one more session, unless the limit is reached.
func (p *people) enter(who identity.Identity, limit access.Limit[int], node string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.sessions[personOf(who)]
	if limit.Rule != "" && n >= limit.At {
		return fault.New(fault.Exhausted, "node", fmt.Sprintf("%s has %d sessions on %s, and %s allows %d", who.Name, n, node, limit.Rule, max(limit.At, 0)), "end another session first")
	}
	if p.sessions == nil {
		p.sessions = map[person]int{}
	}
	p.sessions[personOf(who)] = n + 1
	return nil
}

func (p *people) leave(who identity.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sessions[personOf(who)]--; p.sessions[personOf(who)] <= 0 {
		delete(p.sessions, personOf(who))
	}
}
