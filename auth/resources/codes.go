package resources

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	authoritiesNotRemovable = fault.Code{
		Name:   "authorities-not-removable",
		Kind:   fault.Invalid,
		Text:   "the authorities cannot be removed",
		Remedy: "to replace keys: tsh root request",
	}

	authoritiesUnknown = fault.Code{
		Name:   "authorities-unknown",
		Kind:   fault.NotFound,
		Text:   "there are no authorities \"{name}\"",
		Remedy: "the authorities of the cluster have the name {known}",
	}

	connectorAdminLost = fault.Code{
		Name:   "connector-admin-lost",
		Kind:   fault.Denied,
		Text:   "after this no connector would map anybody to the role {role}",
		Remedy: "map a claim to it in another connector first",
	}

	connectorSecretInvalid = fault.Code{
		Name:   "connector-secret-invalid",
		Kind:   fault.Invalid,
		Text:   "spec.client_secret: {why}",
		Remedy: "write the secret itself as client_secret",
	}

	documentChanged = fault.Code{
		Name:   "document-changed",
		Kind:   fault.Conflict,
		Text:   "the document was changed: its revision is now {stored}, not {asked}",
		Remedy: "get it again and repeat the change",
	}

	documentKindUnknown = fault.Code{
		Name: "document-kind-unknown",
		Kind: fault.Invalid,
		Text: "there is no kind of document \"{kind}\"",
		Remedy: "use one of: role, connector, user, token, node, proxy, replica, authorities, settings, " +
			"lock, event",
	}

	documentNameInvalid = fault.Code{
		Name:   "document-name-invalid",
		Kind:   fault.Invalid,
		Text:   "metadata.name: {why}",
		Remedy: "choose another name for the {kind}",
	}

	documentVersionUnknown = fault.Code{
		Name:   "document-version-unknown",
		Kind:   fault.Invalid,
		Text:   "version \"{version}\" of kind {kind} is not supported",
		Remedy: "write version: " + Version,
	}

	eventPageInvalid = fault.Code{
		Name:   "event-page-invalid",
		Kind:   fault.Invalid,
		Text:   "a page of events begins after a number",
		Remedy: "leave out after, or use next of the last page",
	}

	eventUnknown = fault.Code{
		Name:   "event-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no event \"{name}\"",
		Remedy: "the name of an event is its number; list them: tsh get events",
	}

	eventsReadOnly = fault.Code{
		Name:   "events-read-only",
		Kind:   fault.Denied,
		Text:   "events can only be read: the audit log is never changed",
		Remedy: "use: tsh get events",
	}

	lockFactUnknown = fault.Code{
		Name:   "lock-fact-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no {what} \"{name}\": the lock would hit nobody now",
		Remedy: "check the name; to lock it all the same: --force, or in a document force: true",
	}

	lockFactUnresolved = fault.Code{
		Name:   "lock-fact-unresolved",
		Kind:   fault.NotFound,
		Text:   "there is no {what} \"{name}\"",
		Remedy: "check the name; what the cluster does not know is named by its {form}",
	}

	lockHitsOwnProxy = fault.Code{
		Name: "lock-hits-own-proxy",
		Kind: fault.Denied,
		Text: "you are connected by the proxy that the lock would hit",
		Remedy: "connect by another one: --proxy; to lock it all the same: --force, or in a document " +
			"force: true",
	}

	lockHitsSelf = fault.Code{
		Name:   "lock-hits-self",
		Kind:   fault.Denied,
		Text:   "the lock would hit you yourself, and you could not remove it",
		Remedy: "name somebody else; to lock yourself all the same: --force, or in a document force: true",
	}

	lockNameForeign = fault.Code{
		Name:   "lock-name-foreign",
		Kind:   fault.Invalid,
		Text:   "metadata.name: a lock with these facts and this effect has the id {id}, not \"{name}\"",
		Remedy: "leave the name out: the cluster gives it. To change what a lock hits, make another one",
	}

	lockOfSelf = fault.Code{
		Name:   "lock-of-self",
		Kind:   fault.Denied,
		Text:   "the lock {id} takes access away from you: nobody frees themselves",
		Remedy: "ask {hint} to do it",
	}

	lockTakesLastRoleAdmin = fault.Code{
		Name: "lock-takes-last-role-admin",
		Kind: fault.Denied,
		Text: "with the lock nobody could apply roles any more, not even after a new login",
		Remedy: "let somebody else log in as an administrator first; to lock all the same: --force, or " +
			"in a document force: true",
	}

	lockTakesOwnRoleAdmin = fault.Code{
		Name: "lock-takes-own-role-admin",
		Kind: fault.Denied,
		Text: "with the lock you could no longer apply roles",
		Remedy: "ask another administrator to do it; to lock all the same: --force, or in a document " +
			"force: true",
	}

	machineUnknown = fault.Code{
		Name:   "machine-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no {kind} \"{name}\"",
		Remedy: "see: tsh get {plural}; one is added by joining: tsh token create --kind {kind}",
	}

	replicaFixed = fault.Code{
		Name:   "replica-fixed",
		Kind:   fault.Invalid,
		Text:   "the only replica of the auth service can be neither changed nor removed",
		Remedy: "see: tsh get replicas",
	}

	replicaUnknown = fault.Code{
		Name:   "replica-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no replica \"{name}\"",
		Remedy: "see: tsh get replicas",
	}

	resourceAccessDenied = fault.Code{
		Name:   "resource-access-denied",
		Kind:   fault.Denied,
		Text:   "{reason}",
		Remedy: "{hint}",
	}

	roleAdminGrantKept = fault.Code{
		Name:   "role-admin-grant-kept",
		Kind:   fault.Denied,
		Text:   "the role admin must keep {action} on {plural}: nobody could restore it",
		Remedy: "leave the grant on resources in the role admin, and make another role for less",
	}

	roleAdminKept = fault.Code{
		Name:   "role-admin-kept",
		Kind:   fault.Denied,
		Text:   "the role admin cannot be removed: nobody could create it again",
		Remedy: "take the role from users instead, in their connector or user document",
	}

	roleEscalation = fault.Code{
		Name:   "role-escalation",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: askRoleAdmin,
	}

	roleSelfDenied = fault.Code{
		Name:   "role-self-denied",
		Kind:   fault.Denied,
		Text:   "after this you could no longer apply roles, not even to undo it",
		Remedy: "ask another administrator to do it",
	}

	rolesTooLarge = fault.Code{
		Name:   "roles-too-large",
		Kind:   fault.Exhausted,
		Text:   "all roles together would have {bytes} bytes, more than {most}",
		Remedy: "remove roles that are not used, or write shorter ones",
	}

	userNameAmbiguous = fault.Code{
		Name:   "user-name-ambiguous",
		Kind:   fault.Conflict,
		Text:   "{count} users have the name \"{name}\"",
		Remedy: "name the one you mean by connector/subject: tsh get users",
	}

	userUnknown = fault.Code{
		Name:   "user-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no user \"{name}\": a user exists from their first login on",
		Remedy: "let them log in once, then see: tsh get users",
	}

	settingsNotRemovable = fault.Code{
		Name:   "settings-not-removable",
		Kind:   fault.Invalid,
		Text:   "the settings cannot be removed",
		Remedy: "to return to the defaults, apply settings with an empty spec",
	}

	settingsUnknown = fault.Code{
		Name:   "settings-unknown",
		Kind:   fault.NotFound,
		Text:   "there are no settings \"{name}\"",
		Remedy: "the settings of the cluster have the name {known}",
	}

	specInvalid = fault.Code{
		Name:   "spec-invalid",
		Kind:   fault.Invalid,
		Text:   "the spec of this {kind} is not valid; the message names each fault",
		Remedy: "correct the {kind}, then apply it again",
	}
)
