package tsh

import (
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// ignoredOptions are the OpenSSH options, in lower case, that scripts give and that make no difference to
// tsh: it always verifies the node's certificate, never asks questions, uses only the keys of the login, and
// always detects a lost connection.
var ignoredOptions = map[string]bool{
	"addkeystoagent": true, "batchmode": true, "checkhostip": true, "compression": true,
	"connectionattempts": true, "connecttimeout": true, "controlmaster": true, "controlpath": true,
	"controlpersist": true, "exitonforwardfailure": true, "forwardx11": true, "forwardx11trusted": true,
	"globalknownhostsfile": true, "gssapiauthentication": true, "hashknownhosts": true,
	"identitiesonly": true, "identityfile": true, "kbdinteractiveauthentication": true,
	"loglevel": true, "numberofpasswordprompts": true, "passwordauthentication": true,
	"permitlocalcommand": true, "preferredauthentications": true, "pubkeyauthentication": true,
	"sendenv": true, "serveralivecountmax": true, "serveraliveinterval": true,
	"stricthostkeychecking": true, "tcpkeepalive": true, "updatehostkeys": true,
	"userknownhostsfile": true, "visualhostkey": true,
}

// applyOptions sets the fields of o from OpenSSH options, each as OPTION=VALUE or "OPTION VALUE". It returns
// an Invalid fault for other text and for an option that tsh does not support. Options that make no
// difference to tsh are accepted without effect.
func (o *sshOptions) applyOptions(options []string) error {
	for _, typed := range options {
		name, value, hasEquals := strings.Cut(typed, "=")
		if !hasEquals || strings.ContainsAny(name, " \t") { // "OPTION VALUE", where VALUE may contain =
			name, value, _ = strings.Cut(strings.TrimSpace(typed), " ")
		}
		name, value = strings.TrimSpace(name), strings.Trim(strings.TrimSpace(value), `"`)
		if name == "" || value == "" {
			return sshOptionMalformed.New("", fault.Args{"option": typed})
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

// applyOption sets the fields of o for one option. name is in lower case. It returns an Invalid fault for an
// option that tsh does not support. A comment marks each case where a flag takes precedence.
func (o *sshOptions) applyOption(name, value string) error {
	yes, no := strings.EqualFold(value, "yes"), strings.EqualFold(value, "no")
	switch name {
	case "user":
		if o.login == "" { // -l takes precedence
			o.login = value
		}
	case "forwardagent":
		o.agent, o.noAgent = o.agent || yes, o.noAgent || no
	case "requesttty":
		switch strings.ToLower(value) {
		case "yes", "force":
			o.tty = true
		case "no":
			o.noTTY = !o.tty // -t takes precedence
		}
	case "setenv":
		o.env = append(o.env, value)
	case "escapechar":
		o.escape = value
	case "clearallforwardings": // applyOptions then drops -L, -R and -D too: scp and sftp rely on it
		o.clear = o.clear || yes
	case "localforward":
		o.local = append(o.local, strings.Join(strings.Fields(value), ":"))
	case "remoteforward":
		o.remote = append(o.remote, strings.Join(strings.Fields(value), ":"))
	case "dynamicforward":
		o.dynamic = append(o.dynamic, value)
	case "remotecommand":
		if !strings.EqualFold(value, "none") {
			return sshOptionRemotecommand.New("")
		}
	default:
		if !ignoredOptions[name] {
			return sshOptionUnsupported.New("", fault.Args{"option": terminal.Clean(name)})
		}
	}
	return nil
}
