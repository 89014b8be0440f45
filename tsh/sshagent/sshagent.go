// Package sshagent answers: how does the key of a login get into ssh-agent, and out again?
//
// It limits a key to connections from this machine to certain hosts: if the user forwards the agent to a
// node, programs on that node cannot use the key. tsh login and tsh logout call it.
package sshagent

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const (
	// exchangeTime bounds each exchange with ssh-agent.
	exchangeTime = 5 * time.Second
	// maxDestinations keeps the message to ssh-agent, with about 150 bytes for each destination, under the
	// limit of 256 KiB (OpenSSH, AGENT_MAX_LEN).
	maxDestinations = 1000
	// restrictDestination is the constraint of OpenSSH since 8.9 (PROTOCOL.agent section 2).
	restrictDestination = "restrict-destination-v00@openssh.com"
)

// Agent is the socket of an ssh-agent, as in SSH_AUTH_SOCK. Each call opens a connection of its own.
type Agent string

// Add loads a key without a limit on hosts.
func (a Agent) Add(key agent.AddedKey) error {
	return a.call(func(c agent.ExtendedAgent) error { return c.Add(key) })
}

// AddFor loads a key that the agent uses only for connections from this machine to the hosts, if the host
// shows a certificate that one of the authorities signed. OpenSSH compares whole host names, without
// wildcards, so every host must be listed. It returns ErrCannotLimit if the agent does not load the key, and
// another error for more than maxDestinations hosts. On an error no key is loaded.
func (a Agent) AddFor(key agent.AddedKey, hosts []string, authorities []ssh.PublicKey) error {
	if len(hosts) > maxDestinations {
		return fmt.Errorf("%d hosts are more destinations than an agent accepts", len(hosts))
	}
	key.ConstraintExtensions = []agent.ConstraintExtension{{
		ExtensionName:    restrictDestination,
		ExtensionDetails: encodeConstraints(hosts, authorities),
	}}
	if err := a.Add(key); err != nil {
		return ErrCannotLimit
	}
	return nil
}

// ErrCannotLimit is the error of AddFor for an agent that does not load a key with a limit on hosts. Usually
// it does not know the constraint.
var ErrCannotLimit = errors.New("this agent cannot limit a key to certain hosts")

// Remove removes every key with this comment. It goes on after an error, and returns all errors.
func (a Agent) Remove(comment string) error {
	return a.call(func(c agent.ExtendedAgent) error {
		keys, err := c.List()
		if err != nil {
			return err
		}
		var removeErrs error
		for _, key := range keys {
			if key.Comment == comment {
				removeErrs = errors.Join(removeErrs, c.Remove(key))
			}
		}
		return removeErrs
	})
}

// call opens a connection to the agent, calls fn with a client for it, and closes the connection. fn must end
// within exchangeTime.
func (a Agent) call(fn func(agent.ExtendedAgent) error) error {
	conn, err := net.DialTimeout("unix", string(a), exchangeTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(exchangeTime)); err != nil {
		return err
	}
	return fn(agent.NewClient(conn))
}

// constraintHop is one end of a destination constraint: a host and the keys that it may show. Keys has pairs
// of a key and whether it is an authority that signs host certificates. An empty hop is this machine.
type constraintHop struct {
	User     string
	Host     string
	Reserved string
	Keys     []byte `ssh:"rest"`
}

// destConstraint says from where to where a key may be used (OpenSSH PROTOCOL.agent section 2). From and To
// are encoded hops.
type destConstraint struct {
	From     []byte // an empty hop: this machine
	To       []byte
	Reserved string
}

// encodeConstraints encodes one destination constraint for each host: from this machine to the host, which
// shows a certificate that one of the authorities signed (OpenSSH ssh-agent.c, parse_dest_constraint).
func encodeConstraints(hosts []string, authorities []ssh.PublicKey) []byte {
	var keys []byte
	for _, authority := range authorities {
		keys = append(keys, ssh.Marshal(struct {
			Key         []byte
			IsAuthority bool
		}{authority.Marshal(), true})...)
	}
	thisMachine := ssh.Marshal(constraintHop{})
	var list []byte
	for _, host := range hosts {
		to := ssh.Marshal(constraintHop{Host: host, Keys: keys})
		constraint := ssh.Marshal(destConstraint{From: thisMachine, To: to})
		list = append(list, ssh.Marshal(struct{ String []byte }{constraint})...)
	}
	return list
}
