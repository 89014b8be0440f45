package resources

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// lockMatch are the facts of a lock as people write them. A user is named by their name or by
// connector/subject, and a machine by its name or its id. Shown are the second forms, which stay the same.
type lockMatch struct {
	User         string           `json:"user,omitempty"`
	Connector    string           `json:"connector,omitempty"`
	LoginID      identity.LoginID `json:"login_id,omitempty"`
	Serial       string           `json:"serial,omitempty"` // of a certificate, in decimal
	Role         string           `json:"role,omitempty"`
	Account      identity.Login   `json:"account,omitempty"`
	Machine      string           `json:"machine,omitempty"`
	LoginProxy   string           `json:"login_proxy,omitempty"`
	ViaProxy     string           `json:"via_proxy,omitempty"`
	IssuedBefore time.Time        `json:"issued_before,omitzero"`
	Since        time.Time        `json:"since,omitzero"`
}

// Check implements config.Checker.
func (m lockMatch) Check(report func(path, format string, args ...any)) {
	if m.Serial == "" {
		return
	}
	if n, err := strconv.ParseUint(m.Serial, 10, 64); err != nil || n == 0 {
		report("serial", "%.40q is not the serial number of a certificate, in decimal", m.Serial)
	}
}

// matchOf returns the facts as they are shown.
func matchOf(f access.Facts) lockMatch {
	m := lockMatch{
		Connector:    f.Connector,
		LoginID:      f.LoginID,
		Role:         f.Role,
		Account:      f.Account,
		Machine:      string(f.Machine),
		LoginProxy:   string(f.LoginProxy),
		ViaProxy:     string(f.ViaProxy),
		IssuedBefore: f.IssuedBefore,
		Since:        f.Since,
	}
	if f.User != (access.UserFact{}) {
		m.User = state.UserID(identity.UserKey(f.User))
	}
	if f.Serial != 0 {
		m.Serial = strconv.FormatUint(uint64(f.Serial), 10)
	}
	return m
}

// resolve returns the facts in a spec, with ids in the place of names. unknown is the fault for the first
// fact or role that names nothing that exists, and nil if there is none: a lock may be made for something
// that comes later. What has no id without being known is an error.
func (k lockKind) resolve(
	ctx context.Context, by caller, spec lockSpec,
) (facts access.Facts, unknown *fault.Error, err error) {
	m := spec.Match
	serial, _ := strconv.ParseUint(m.Serial, 10, 64) // Check has parsed it before
	facts = access.Facts{
		Connector:    m.Connector,
		LoginID:      m.LoginID,
		Serial:       identity.Serial(serial),
		Role:         m.Role,
		Account:      m.Account,
		IssuedBefore: m.IssuedBefore.UTC(),
		Since:        m.Since.UTC(),
	}
	isUnknown := func(what, name string) {
		if unknown == nil {
			unknown = lockFactUnknown.New("resources.Apply", fault.Args{"what": what, "name": name})
		}
	}
	if m.User != "" {
		user, known, err := k.resolveUser(ctx, m.User)
		if err != nil {
			return facts, nil, err
		}
		if facts.User = user; !known {
			isUnknown("user", m.User)
		}
	}
	for _, machine := range []struct {
		what, name string
		id         *identity.MachineID
	}{
		{anyMachine, m.Machine, &facts.Machine},
		{string(identity.Proxy), m.LoginProxy, &facts.LoginProxy},
		{string(identity.Proxy), m.ViaProxy, &facts.ViaProxy},
	} {
		if machine.name == "" {
			continue
		}
		id, known, err := k.resolveMachine(ctx, machine.name, machine.what)
		if err != nil {
			return facts, nil, err
		}
		if *machine.id = id; !known {
			isUnknown(machine.what, machine.name)
		}
	}
	if m.Connector != "" {
		_, err := k.connectors.Connector(ctx, m.Connector)
		if fault.Is(err, fault.NotFound) {
			isUnknown("connector", m.Connector)
		} else if err != nil {
			return facts, nil, err
		}
	}
	for _, role := range []string{m.Role, spec.WithoutRole} {
		if _, known := by.policy.Roles[role]; role != "" && !known {
			isUnknown("role", role)
		}
	}
	return facts, unknown, nil
}

// resolveUser returns the user with that name, or that connector/subject. known is false for a
// connector/subject that has never logged in. Any other name of nobody is fault NotFound, and one of several
// users is fault Conflict.
func (k lockKind) resolveUser(
	ctx context.Context, name string,
) (user access.UserFact, known bool, err error) {
	found, err := k.users.find(ctx, name)
	if err == nil {
		return access.UserFact(found.Value.UserKey()), true, nil
	}
	connector, escaped, hasBoth := strings.Cut(name, "/")
	subject, escapeErr := url.PathUnescape(escaped)
	key := identity.UserKey{Connector: connector, Subject: subject}
	switch {
	case !fault.Is(err, fault.NotFound):
		return user, false, err
	case !hasBoth || escapeErr != nil || state.UserID(key) != name: // a hash has no subject
		return user, false, lockFactUnresolved.New("resources.Apply", fault.Args{
			"what": "user", "name": name, "form": "connector/subject",
		})
	}
	return access.UserFact(key), false, nil
}

// anyMachine stands for machines of every kind.
const anyMachine = "machine"

// resolveMachine returns the id of the machine with that name or that id. what is the kind, or
// anyMachine. known is false for an id that no machine of the kind has. A name that
// none has is fault NotFound.
func (k lockKind) resolveMachine(
	ctx context.Context, name, what string,
) (id identity.MachineID, known bool, err error) {
	id = identity.MachineID(name)
	isID := identity.CheckMachineID(id) == nil
	var found state.Stored[state.Machine]
	if isID {
		found, err = k.machines.Machine(ctx, id)
	} else {
		found, err = k.machines.MachineByName(ctx, name)
	}
	if err != nil && !fault.Is(err, fault.NotFound) {
		return "", false, err
	}
	known = err == nil && (what == anyMachine || what == string(found.Value.Kind))
	if known {
		return found.Value.ID, true, nil
	}
	if !isID {
		return "", false, lockFactUnresolved.New("resources.Apply", fault.Args{
			"what": what, "name": name, "form": "id",
		})
	}
	return id, false, nil
}

// describe returns the facts for people, as "user alice@example.com (corp/7), account root, node web-1".
// Users and machines that do not exist any more are named by their ids.
func (k lockKind) describe(ctx context.Context, f access.Facts) (string, error) {
	m := matchOf(f)
	var user string
	if m.User != "" {
		found, err := k.users.users.UserByID(ctx, m.User)
		switch {
		case err == nil:
			user = found.Value.Name + " (" + m.User + ")"
		case fault.Is(err, fault.NotFound):
			user = m.User
		default:
			return "", err
		}
	}
	machine, err := k.nameMachine(ctx, f.Machine)
	if err != nil {
		return "", err
	}
	viaProxy, err := k.nameMachine(ctx, f.ViaProxy)
	if err != nil {
		return "", err
	}
	loginProxy, err := k.nameMachine(ctx, f.LoginProxy)
	if err != nil {
		return "", err
	}
	var hits []string
	for _, part := range []struct{ what, value string }{
		{"user ", user},
		{"connector ", m.Connector},
		{"login ", string(m.LoginID)},
		{"certificate ", m.Serial},
		{"role ", m.Role},
		{"account ", string(m.Account)},
		{"", machine},
		{"connected by ", viaProxy},
		{"logged in by ", loginProxy},
		{"issued since ", timeText(f.Since)},
		{"issued before ", timeText(f.IssuedBefore)},
	} {
		if part.value != "" {
			hits = append(hits, part.what+part.value)
		}
	}
	if len(hits) == 0 {
		return "everybody", nil
	}
	return strings.Join(hits, ", "), nil
}

// nameMachine returns the machine for people, as "node web-1", and "" for no id.
func (k lockKind) nameMachine(ctx context.Context, id identity.MachineID) (string, error) {
	if id == "" {
		return "", nil
	}
	found, err := k.machines.Machine(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return "machine " + string(id), nil
	}
	return string(found.Value.Kind) + " " + found.Value.Name, err
}

// timeText returns a time for people, and "" for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
