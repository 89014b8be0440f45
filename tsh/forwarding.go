package tsh

import (
	"fmt"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/forward"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// forwarder parses the flags for forwarding. It opens nothing.
func (a *app) forwarder(opts sshOptions) (*forward.Forwarder, error) {
	cfg := forward.Config{Notify: func(s string) {
		fmt.Fprintf(a.Stderr, "tsh: %s\r\n", terminal.Clean(s)) // \r because the terminal may be in raw mode
	}}
	for _, flag := range []struct {
		values []string
		parse  func(string) (forward.Rule, error)
		rules  *[]forward.Rule
	}{
		{opts.local, forward.ParseLocal, &cfg.Local},
		{opts.dynamic, forward.ParseDynamic, &cfg.Local},
		{opts.remote, forward.ParseRemote, &cfg.Remote},
	} {
		for _, s := range flag.values {
			rule, err := flag.parse(s)
			if err != nil {
				return nil, err
			}
			*flag.rules = append(*flag.rules, rule)
		}
	}
	if opts.stdio != "" {
		if _, err := forward.ParseTarget(opts.stdio); err != nil { // reported before a connection is opened
			return nil, err
		}
	}
	if opts.agent {
		if cfg.Agent = a.Getenv("SSH_AUTH_SOCK"); cfg.Agent == "" {
			msg := "there is no ssh-agent to forward: SSH_AUTH_SOCK is not set"
			hint := "start one with: eval $(ssh-agent); or leave -A out"
			return nil, fault.New(fault.Invalid, "", msg, hint)
		}
	}
	return forward.New(cfg), nil
}
