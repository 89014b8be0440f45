package tsh

import (
	"fmt"

	"github.com/threshold-access/threshold/tsh/forward"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// forwarder returns the Forwarder for -L, -D, -R and -A. It opens no connection or listener. It returns an
// Invalid fault if a value is not valid (it checks that of -W too), and for -A without an ssh-agent.
func (a *app) forwarder(opts sshOptions) (*forward.Forwarder, error) {
	cfg := forward.Config{Notify: func(msg string) {
		fmt.Fprintf(a.Stderr, "tsh: %s\r\n", terminal.Clean(msg)) // \r: the terminal may be in raw mode
	}}
	for _, flag := range []struct {
		values []string
		parse  func(string) (forward.Rule, error)
		rules  *[]forward.Rule
	}{
		{opts.local, forward.ParseLocal, &cfg.Local},
		{opts.dynamic, forward.ParseDynamic, &cfg.Local}, // -D also listens on this machine
		{opts.remote, forward.ParseRemote, &cfg.Remote},
	} {
		for _, value := range flag.values {
			rule, err := flag.parse(value)
			if err != nil {
				return nil, err
			}
			*flag.rules = append(*flag.rules, rule)
		}
	}
	if opts.stdio != "" {
		// forwardStdio parses the value again; here a wrong one is reported before a connection is opened.
		if _, err := forward.ParseTarget(opts.stdio); err != nil {
			return nil, err
		}
	}
	if opts.agent {
		if cfg.Agent = a.Getenv("SSH_AUTH_SOCK"); cfg.Agent == "" {
			return nil, agentNotRunning.New("")
		}
	}
	return forward.New(cfg), nil
}
