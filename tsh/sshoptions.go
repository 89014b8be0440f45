package tsh

import (
	"fmt"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
)

// idle are OpenSSH's options, in lower case, that scripts give and that make no difference to tsh: it checks
// the node's certificate whatever they say, asks nothing, looks for keys nowhere, and gives up on a silent
// connection by itself.
var idle = map[string]bool{
	"addkeystoagent": true, "batchmode": true, "checkhostip": true, "compression": true, "connectionattempts": true,
	"connecttimeout": true, "controlmaster": true, "controlpath": true, "controlpersist": true, "exitonforwardfailure": true, "forwardx11": true,
	"forwardx11trusted": true, "globalknownhostsfile": true, "gssapiauthentication": true, "hashknownhosts": true, "identitiesonly": true,
	"identityfile": true, "kbdinteractiveauthentication": true, "loglevel": true, "numberofpasswordprompts": true, "passwordauthentication": true,
	"permitlocalcommand": true, "preferredauthentications": true, "pubkeyauthentication": true, "sendenv": true,
	"serveralivecountmax": true, "serveraliveinterval": true, "stricthostkeychecking": true, "tcpkeepalive": true, "updatehostkeys": true,
	"userknownhostsfile": true, "visualhostkey": true,
}

// applyOptions reads OpenSSH's options, as OPTION=VALUE or "OPTION VALUE".
func (o *sshOptions) applyOptions(options []string) error {
	for _, s := range options {
		name, value, ok := strings.Cut(s, "=")
		if !ok || strings.ContainsAny(name, " \t") {
			name, value, _ = strings.Cut(strings.TrimSpace(s), " ")
		}
		name, value = strings.TrimSpace(name), strings.Trim(strings.TrimSpace(value), `"`)
		if name == "" || value == "" {
			return fault.New(
				fault.Invalid,
				"",
				fmt.Sprintf("-o %q is no option", s),
				"write OPTION=VALUE, as -o RequestTTY=yes",
			)
		}
		if err := o.applyOption(strings.ToLower(name), value); err != nil {
			return err
		}
	}
	if o.clear {
		o.local, o.remote, o.dynamic = nil, nil, nil
	}
	return nil
}

func (o *sshOptions) applyOption(name, value string) error {
	yes, no := strings.EqualFold(value, "yes"), strings.EqualFold(value, "no")
	switch name {
	case "user":
		if o.login == "" { // -l wins
			o.login = value
		}
	case "forwardagent":
		o.agent, o.noAgent = o.agent || yes, o.noAgent || no
	case "requesttty":
		switch strings.ToLower(value) {
		case "yes", "force":
			o.tty = true
		case "no":
			o.noTTY = !o.tty
		}
	case "setenv":
		o.env = append(o.env, value)
	case "escapechar":
		o.escape = value
	case "clearallforwardings": // those of -L, -R and -D too: scp and sftp count on it
		o.clear = o.clear || yes
	case "localforward":
		o.local = append(o.local, strings.Join(strings.Fields(value), ":"))
	case "remoteforward":
		o.remote = append(o.remote, strings.Join(strings.Fields(value), ":"))
	case "dynamicforward":
		o.dynamic = append(o.dynamic, value)
	case "remotecommand":
		if !strings.EqualFold(value, "none") {
			return fault.New(
				fault.Invalid,
				"",
				"tsh has no option remotecommand",
				"write the command after the node",
			)
		}
	default:
		if !idle[name] {
			return fault.New(
				fault.Invalid,
				"",
				fmt.Sprintf("tsh has no option %s", clean(name)),
				"leave it out; ssh itself takes it and reaches nodes too, see: tsh config",
			)
		}
	}
	return nil
}
