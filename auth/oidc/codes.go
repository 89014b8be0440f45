package oidc

import "github.com/threshold-access/threshold/internal/fault"

// Texts that several errors share.
const (
	responseRefused = "the response of the identity provider {provider} is refused: "
	lookAtConnector = startAgain +
		"; if it happens again, ask an administrator to look at connector {connector}"
	providerRefused = "the identity provider {provider} refused the login: {why}"
	setServerClock  = "ask an administrator to set the clock of the auth server; then start again: tsh login"
)

// The errors of this package.
var (
	callbackCodeUnknown = fault.Code{
		Name: "callback-code-unknown",
		Kind: fault.Invalid,
		Text: "the identity provider does not know this code: it was used already, has expired, or " +
			"belongs to another login",
		Remedy: startAgain,
	}

	callbackEmpty = fault.Code{
		Name:   "callback-empty",
		Kind:   fault.Invalid,
		Text:   "the identity provider sent neither a code nor an error",
		Remedy: startAgain,
	}

	callbackIssuerWrong = fault.Code{
		Name:   "callback-issuer-wrong",
		Kind:   fault.Invalid,
		Text:   "the response comes from another identity provider than the one that was asked",
		Remedy: startAgain,
	}

	callbackOfOtherLogin = fault.Code{
		Name:   "callback-of-other-login",
		Kind:   fault.Invalid,
		Text:   "the response of the identity provider does not belong to this login",
		Remedy: startAgain + ", and finish it in the same browser",
	}

	callbackTooLarge = fault.Code{
		Name:   "callback-too-large",
		Kind:   fault.Invalid,
		Text:   "the identity provider's response is too large",
		Remedy: startAgain,
	}

	connectorUnreadable = fault.Code{
		Name:   "connector-unreadable",
		Kind:   fault.Internal,
		Text:   "this release cannot read connector {connector}",
		Remedy: "run the newest release on every auth replica",
	}

	idTokenOfOtherLogin = fault.Code{
		Name:   "id-token-of-other-login",
		Kind:   fault.Invalid,
		Text:   "the response of the identity provider does not belong to this login",
		Remedy: startAgain,
	}

	loginsTooMany = fault.Code{
		Name:   "logins-too-many",
		Kind:   fault.Unavailable,
		Text:   "too many logins are in progress",
		Remedy: "try again in a minute",
	}

	oidcConfigIncomplete = fault.Code{
		Name:   "oidc-config-incomplete",
		Kind:   fault.Internal,
		Text:   "the configuration has no source of connectors",
		Remedy: "report this: it is a defect",
	}

	providerClaimUnusable = fault.Code{
		Name: "provider-claim-unusable",
		Kind: fault.Invalid,
		Text: "the identity provider {provider} sent no usable claim \"{claim}\" (it is missing, too " +
			"long, or has invisible characters)",
		Remedy: "ask an administrator to correct the account at the provider, or connector " +
			"{connector}",
	}

	providerEmailUnverified = fault.Code{
		Name:   "provider-email-unverified",
		Kind:   fault.Denied,
		Text:   "the identity provider {provider} has not verified the e-mail address {email}",
		Remedy: "confirm the address with the provider, then start again: tsh login",
	}

	providerKeyUnpublished = fault.Code{
		Name:   "provider-key-unpublished",
		Kind:   fault.Unavailable,
		Text:   "the identity provider {provider} signed with a key it has not published",
		Remedy: "try again in a minute: tsh login",
	}

	providerMisconfigured = fault.Code{
		Name:   "provider-misconfigured",
		Kind:   fault.Unavailable,
		Text:   "the identity provider {provider} cannot be used: {problem}",
		Remedy: "ask an administrator to correct connector {connector}",
	}

	providerUnreachable = fault.Code{
		Name: "provider-unreachable",
		Kind: fault.Unavailable,
		Text: "the identity provider {provider} cannot be reached",
		Remedy: "try again in a minute; if it happens again, tell an administrator that {issuer} " +
			"does not answer",
	}

	idTokenMissing = fault.Code{
		Name:   "id-token-missing",
		Kind:   fault.Invalid,
		Text:   responseRefused + "it sent no ID token, or one that is too large",
		Remedy: lookAtConnector,
	}

	idTokenInvalid = fault.Code{
		Name:   "id-token-invalid",
		Kind:   fault.Invalid,
		Text:   responseRefused + "its ID token is not valid",
		Remedy: lookAtConnector,
	}

	idTokenUnreadable = fault.Code{
		Name:   "id-token-unreadable",
		Kind:   fault.Invalid,
		Text:   responseRefused + "its ID token cannot be read",
		Remedy: lookAtConnector,
	}

	idTokenOfOtherClient = fault.Code{
		Name:   "id-token-of-other-client",
		Kind:   fault.Invalid,
		Text:   responseRefused + "its ID token was made for another client",
		Remedy: lookAtConnector,
	}

	idTokenHashWrong = fault.Code{
		Name:   "id-token-hash-wrong",
		Kind:   fault.Invalid,
		Text:   responseRefused + "its access token and ID token do not belong together",
		Remedy: lookAtConnector,
	}

	idTokenWithoutTimes = fault.Code{
		Name:   "id-token-without-times",
		Kind:   fault.Invalid,
		Text:   responseRefused + "its ID token has no issue time or no expiry",
		Remedy: lookAtConnector,
	}

	idTokenExpired = fault.Code{
		Name:   "id-token-expired",
		Kind:   fault.Invalid,
		Text:   responseRefused + "its ID token has expired",
		Remedy: lookAtConnector,
	}

	idTokenNotYetValid = fault.Code{
		Name:   "id-token-not-yet-valid",
		Kind:   fault.Invalid,
		Text:   responseRefused + "its ID token is not valid yet",
		Remedy: lookAtConnector,
	}

	providerClockBehind = fault.Code{
		Name:   "provider-clock-behind",
		Kind:   fault.Invalid,
		Text:   "the clock of the identity provider {provider} is {gap} behind this server's ({now} here)",
		Remedy: setServerClock,
	}

	providerClockAhead = fault.Code{
		Name:   "provider-clock-ahead",
		Kind:   fault.Invalid,
		Text:   "the clock of the identity provider {provider} is {gap} ahead of this server's ({now} here)",
		Remedy: setServerClock,
	}

	providerDeniedAccess = fault.Code{
		Name: "provider-denied-access",
		Kind: fault.Denied,
		Text: providerRefused,
		Remedy: "start again: tsh login, and give consent on the provider's page; " +
			"if it happens again, ask an administrator for access there",
	}

	providerFailed = fault.Code{
		Name:   "provider-failed",
		Kind:   fault.Unavailable,
		Text:   providerRefused,
		Remedy: "try again in a minute: tsh login",
	}

	providerRefusedClient = fault.Code{
		Name:   "provider-refused-client",
		Kind:   fault.Unavailable,
		Text:   providerRefused,
		Remedy: "ask an administrator to correct connector {connector}",
	}

	providerRefusedLogin = fault.Code{
		Name:   "provider-refused-login",
		Kind:   fault.Denied,
		Text:   providerRefused,
		Remedy: startAgain,
	}

	connectorUnknown = fault.Code{
		Name:   "connector-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no connector \"{connector}\"",
		Remedy: "choose another one on the login page",
	}

	connectorUnknownAmong = fault.Code{
		Name:   "connector-unknown-among",
		Kind:   fault.NotFound,
		Text:   "there is no connector \"{connector}\"",
		Remedy: "choose one of: {connectors}",
	}
)
