// Package sshagent answers: how does the key of a login get into ssh-agent, and out again?
//
// It limits a key to certain hosts, so that an agent which is forwarded to a node cannot be used for
// connections from there. tsh login and tsh logout call it.
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

// AddFor loads a key for connections from this machine to the hosts, each with a host certificate of one of
// the authorities. OpenSSH compares whole host names, without wildcards. An agent that does not know the
// constraint refuses the key.
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

// ErrCannotLimit is the error of an agent that does not accept a key with a limit on hosts.
var ErrCannotLimit = errors.New("this agent cannot limit a key to certain hosts")

// Remove removes every key with the comment.
func (a Agent) Remove(comment string) error {
	return a.call(func(c agent.ExtendedAgent) error {
		keys, err := c.List()
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.Comment == comment {
				err = errors.Join(err, c.Remove(k))
			}
		}
		return err
	})
}

// call calls fn with a connection to the agent.
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

// constraintHop is one end of a destination constraint. Keys has pairs of a key and whether it is an
// authority.
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

// encodeConstraints encodes, for each host, "from this machine to the host, with a host certificate of one of
// the authorities" (OpenSSH ssh-agent.c, parse_dest_constraint).
func encodeConstraints(hosts []string, authorities []ssh.PublicKey) []byte {
	var keys []byte
	for _, k := range authorities {
		keys = append(keys, ssh.Marshal(struct {
			Key         []byte
			IsAuthority bool
		}{k.Marshal(), true})...)
	}
	from := ssh.Marshal(constraintHop{})
	var list []byte
	for _, h := range hosts {
		c := ssh.Marshal(destConstraint{From: from, To: ssh.Marshal(constraintHop{Host: h, Keys: keys})})
		list = append(list, ssh.Marshal(struct{ B []byte }{c})...)
	}
	return list
}
