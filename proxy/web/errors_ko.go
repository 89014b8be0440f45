package web

// errorsKorean translates the errors that a login can end with, by their codes: what happened, and what to
// do. Arguments stand in braces, as in English; {retry_after} is the time to wait. A code without a
// translation is shown in English, below a Korean title. A test reports the codes of the login that have
// none.
var errorsKorean = map[string]errorText{
	// the second factor
	"second-factor-address-locked": {
		"이 주소에서 틀린 코드가 너무 많이 입력되었습니다",
		"{retry_after} 뒤에 다시 시도하세요",
	},
	"second-factor-busy": {
		"이 사용자의 코드를 동시에 너무 많이 확인하고 있습니다",
		"다음 코드가 나올 때까지 기다렸다가 다시 시도하세요",
	},
	"second-factor-enrolled-elsewhere": {
		"다른 로그인에서 이미 2단계 인증이 설정되었습니다",
		"터미널에서 다시 시작하고, 그 로그인에서 설정한 앱을 쓰세요: tsh login",
	},
	"second-factor-locked": {
		"틀린 코드를 너무 많이 입력했습니다",
		"{retry_after} 뒤에 다시 시도하세요",
	},
	"second-factor-malformed": {
		"코드가 아닙니다. 코드는 숫자 6자리, 복구 코드는 영문자와 숫자 16자리입니다",
		"앱에 지금 표시된 코드를 입력하세요",
	},
	"second-factor-used": {
		"이미 사용한 코드입니다",
		"다음 코드가 나올 때까지 기다렸다가 입력하세요",
	},
	"second-factor-wrong": {
		"코드가 맞지 않습니다",
		"앱에 지금 표시된 코드를 입력하세요. 그 코드도 맞지 않으면 휴대폰의 시간을 자동으로 설정하세요",
	},
	"second-factor-wrong-again": {
		"코드가 맞지 않습니다. 앞서 입력한 코드도 여러 번 틀렸습니다",
		"{retry_after} 뒤에 다시 시도하세요",
	},
	"second-factor-kind-unknown": {
		"이 로그인에는 {kind} 방식의 2단계 인증이 없습니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"recovery-code-wrong": {
		"복구 코드가 맞지 않거나 이미 사용되었습니다",
		"적어 둔 다른 복구 코드를 입력하세요",
	},
	"totp-enrolment-unreadable": {
		"이 로그인의 2단계 인증 설정을 읽을 수 없습니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"totp-record-unreadable": {
		"저장된 2단계 인증 정보를 읽을 수 없습니다",
		"관리자에게 사용자를 삭제해 달라고 하세요: tsh rm user NAME. 다음 로그인에서 새로 설정합니다",
	},
	"totp-secret-failed": {
		"TOTP 비밀 키를 만들 수 없습니다",
		"터미널에서 다시 시도하세요: tsh login",
	},
	// the attempt and its pages
	"login-locked": {
		"이 로그인은 잠금 때문에 허용되지 않습니다: {reason}",
		"다음을 참고하세요: {hint}",
	},
	"login-overtaken": {
		"로그인하는 동안 관리자가 권한을 변경했습니다",
		"다시 로그인하세요: tsh login",
	},
	"attempt-expired": {
		"이 화면이 만료되었습니다. 로그인은 10분 안에 마쳐야 합니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"attempt-used": {
		"이 로그인은 다른 화면에서 진행되었거나 이미 끝났습니다",
		"그 화면에서 계속하거나, 터미널에서 다시 시작하세요: tsh login",
	},
	"callback-repeated": {
		"이 로그인으로 ID 제공자에 너무 많이 요청했습니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"attempt-foreign": {
		"이 화면은 이 클러스터에서 진행 중인 로그인의 것이 아닙니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"attempt-missing": {
		"이 브라우저에서 진행 중인 로그인이 없습니다",
		"쿠키를 허용하는 브라우저로, 터미널에서 다시 시작하세요: tsh login",
	},
	"attempt-not-sealed": {
		"로그인을 계속할 수 없습니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"attempt-too-large": {
		"인증 제공자가 보낸 이 사용자의 정보가 너무 많아 로그인을 계속할 수 없습니다",
		"커넥터에서 역할과 속성을 더 적게 연결해 달라고 관리자에게 요청하세요",
	},
	"auth-silent": {
		"프록시가 인증 서버의 응답을 받지 못했습니다",
		"1분 뒤에 다시 시도하세요. 계속되면 관리자에게 알리세요",
	},
	"callback-of-other-provider": {
		"다른 인증 제공자의 콜백 주소로 응답이 왔습니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"connectors-none": {
		"이 클러스터에 연결된 인증 제공자가 없어 아무도 로그인할 수 없습니다",
		"관리자에게 추가해 달라고 하세요: tsh apply -f connector.yaml",
	},
	"form-of-other-site": {
		"다른 사이트에서 보낸 양식입니다",
		"그 페이지를 닫고 터미널에서 실행하세요: tsh login",
	},
	"form-unreadable": {
		"양식을 읽을 수 없습니다",
		"터미널에서 실행하세요: tsh login",
	},
	"headless-address-changed": {
		"다른 주소에서 요청한 로그인입니다: {address}",
		"터미널에서 다시 시작하세요: tsh login --headless",
	},
	"headless-host-malformed": {
		"이 컴퓨터의 이름이 올바르지 않습니다",
		"tsh를 업데이트한 뒤 다시 시작하세요: tsh login --headless",
	},
	"headless-challenge-malformed": {
		"challenge 값의 형식이 올바르지 않습니다",
		"tsh를 새 버전으로 바꾸고 다시 시작하세요: tsh login --headless",
	},
	"headless-login-approved": {
		"이미 승인된 로그인입니다",
		"터미널에서 다시 시작하세요: tsh login --headless",
	},
	"identity-too-large": {
		"이 사용자의 정보를 인증서에 담을 수 없습니다: {why}",
		"역할과 속성을 더 적게 연결해 달라고 관리자에게 요청하세요",
	},
	"login-address-invalid": {
		"로그인 주소가 올바르지 않습니다",
		"터미널에서 실행하세요: tsh login",
	},
	"login-link-callback-foreign": {
		"이 로그인 주소는 쓸 수 없습니다: 콜백 주소가 이 컴퓨터의 주소가 아닙니다",
		"tsh login이 보여 주는 주소 전체를 그대로 여세요",
	},
	"login-link-challenge-malformed": {
		"이 로그인 주소는 쓸 수 없습니다: challenge 값의 형식이 올바르지 않습니다",
		"tsh login이 보여 주는 주소 전체를 그대로 여세요",
	},
	"login-link-host-malformed": {
		"이 로그인 주소는 쓸 수 없습니다: 컴퓨터 이름이 올바르지 않습니다",
		"tsh login이 보여 주는 주소 전체를 그대로 여세요",
	},
	"login-link-locale-invalid": {
		"이 로그인 주소는 쓸 수 없습니다: 언어 값이 올바르지 않습니다",
		"tsh login이 보여 주는 주소 전체를 그대로 여세요",
	},
	"login-link-mixed": {
		"이 로그인 주소는 쓸 수 없습니다: 브라우저 로그인과 헤드리스 로그인이 섞여 있습니다",
		"tsh login이 보여 주는 주소 전체를 그대로 여세요",
	},
	"login-link-state-malformed": {
		"이 로그인 주소는 쓸 수 없습니다: state 값의 형식이 올바르지 않습니다",
		"tsh login이 보여 주는 주소 전체를 그대로 여세요",
	},
	"login-link-too-long": {
		"이 로그인 주소는 쓸 수 없습니다: 너무 긴 값이 있습니다",
		"tsh login이 보여 주는 주소 전체를 그대로 여세요",
	},
	"login-not-from-terminal": {
		"로그인은 터미널에서 시작해야 합니다",
		"터미널에서 실행하세요: tsh login",
	},
	"login-not-in-progress": {
		"이 브라우저에서 진행 중인 로그인이 없습니다. 이미 마쳤거나 브라우저가 쿠키를 저장하지 않습니다",
		"터미널에서 실행하세요: tsh login",
	},
	"login-page-of-other-login": {
		"이 화면은 이 브라우저에서 진행 중인 로그인의 것이 아닙니다",
		"터미널에서 실행하세요: tsh login",
	},
	"machine-address-unknown": {
		"이 컴퓨터의 주소를 알 수 없습니다",
		"브라우저로 로그인하세요: tsh login",
	},
	"page-unknown": {
		"그런 페이지가 없습니다",
		"첫 화면으로 가세요",
	},
	"proxy-only": {
		"프록시만 할 수 있는 요청입니다",
		"프록시를 거쳐 로그인하세요: tsh login",
	},
	"public-address-invalid": {
		"프록시의 공개 주소가 https://host 또는 https://host:port 형식이 아닙니다",
		"관리자에게 프록시의 공개 주소를 설정해 달라고 하세요",
	},
	"second-factor-no-form": {
		"이 프록시에는 이 2단계 인증 방식({kinds})의 화면이 없습니다",
		"관리자에게 프록시 업데이트를 요청하거나 다른 프록시로 로그인하세요",
	},
	"second-factor-empty": {
		"코드가 아닙니다",
		"인증 앱에 표시된 숫자 6자리를 입력하세요",
	},
	"second-factor-of-other-user": {
		"다른 사용자의 2단계 인증입니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"second-factor-too-long": {
		"답이 너무 깁니다",
		"앱에 지금 표시된 코드를 입력하세요",
	},
	"users-too-many": {
		"지금 로그인하는 사람이 너무 많습니다",
		"1분 뒤에 다시 시도하세요",
	},

	// the identity provider
	"callback-code-unknown": {
		"인증 제공자가 모르는 코드입니다. 이미 사용했거나, 만료되었거나, 다른 로그인의 것입니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"callback-empty": {
		"인증 제공자가 코드도 오류도 보내지 않았습니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"callback-issuer-wrong": {
		"요청한 곳이 아닌 다른 인증 제공자의 응답입니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"callback-of-other-login": {
		"인증 제공자의 응답이 이 로그인의 것이 아닙니다",
		"터미널에서 다시 시작하고, 같은 브라우저에서 끝까지 진행하세요: tsh login",
	},
	"callback-too-large": {
		"인증 제공자의 응답이 너무 큽니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"connector-unknown": {
		"{connector}(이)라는 커넥터가 없습니다",
		"로그인 화면에서 다른 것을 고르세요",
	},
	"connector-unknown-among": {
		"{connector}(이)라는 커넥터가 없습니다",
		"다음 중에서 고르세요: {connectors}",
	},
	"connector-unreadable": {
		"이 버전에서는 커넥터 {connector}을(를) 읽을 수 없습니다",
		"관리자에게 모든 인증 서버를 최신 버전으로 올려 달라고 하세요",
	},
	"id-token-expired": {
		"인증 제공자 {provider}의 응답을 받아들일 수 없습니다: ID 토큰이 만료되었습니다",
		"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {connector}을(를) 살펴봐 달라고 하세요",
	},
	"id-token-hash-wrong": {
		"인증 제공자 {provider}의 응답을 받아들일 수 없습니다: 액세스 토큰과 ID 토큰이 서로 맞지 않습니다",
		"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {connector}을(를) 살펴봐 달라고 하세요",
	},
	"id-token-invalid": {
		"인증 제공자 {provider}의 응답을 받아들일 수 없습니다: ID 토큰이 유효하지 않습니다",
		"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {connector}을(를) 살펴봐 달라고 하세요",
	},
	"id-token-missing": {
		"인증 제공자 {provider}의 응답을 받아들일 수 없습니다: ID 토큰을 보내지 않았거나 ID 토큰이 너무 큽니다",
		"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {connector}을(를) 살펴봐 달라고 하세요",
	},
	"id-token-not-yet-valid": {
		"인증 제공자 {provider}의 응답을 받아들일 수 없습니다: ID 토큰이 아직 유효하지 않습니다",
		"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {connector}을(를) 살펴봐 달라고 하세요",
	},
	"id-token-of-other-client": {
		"인증 제공자 {provider}의 응답을 받아들일 수 없습니다: ID 토큰이 다른 클라이언트를 위한 것입니다",
		"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {connector}을(를) 살펴봐 달라고 하세요",
	},
	"id-token-of-other-login": {
		"인증 제공자의 응답이 이 로그인의 것이 아닙니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"id-token-unreadable": {
		"인증 제공자 {provider}의 응답을 받아들일 수 없습니다: ID 토큰을 읽을 수 없습니다",
		"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {connector}을(를) 살펴봐 달라고 하세요",
	},
	"id-token-without-times": {
		"인증 제공자 {provider}의 응답을 받아들일 수 없습니다: ID 토큰에 발급 시각 또는 만료 시각이 없습니다",
		"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {connector}을(를) 살펴봐 달라고 하세요",
	},
	"logins-too-many": {
		"지금 진행 중인 로그인이 너무 많습니다",
		"1분 뒤에 다시 시도하세요",
	},
	"provider-claim-unusable": {
		"인증 제공자 {provider}이(가) 쓸 수 있는 {claim} 값을 보내지 않았습니다(값이 없거나, 너무 길거나, 보이지 않는 문자가 있습니다)",
		"관리자에게 인증 제공자의 계정이나 커넥터 {connector}을(를) 고쳐 달라고 하세요",
	},
	"provider-clock-ahead": {
		"인증 제공자 {provider}의 시계가 이 서버보다 {gap} 빠릅니다(이 서버: {now})",
		"관리자에게 인증 서버의 시계를 맞춰 달라고 한 뒤 터미널에서 다시 시작하세요: tsh login",
	},
	"provider-clock-behind": {
		"인증 제공자 {provider}의 시계가 이 서버보다 {gap} 늦습니다(이 서버: {now})",
		"관리자에게 인증 서버의 시계를 맞춰 달라고 한 뒤 터미널에서 다시 시작하세요: tsh login",
	},
	"provider-denied-access": {
		"인증 제공자 {provider}이(가) 로그인을 거부했습니다: {why}",
		"터미널에서 다시 시작하고 인증 제공자 화면에서 동의하세요. 계속되면 그곳의 접근 권한을 관리자에게 요청하세요: tsh login",
	},
	"provider-email-unverified": {
		"인증 제공자 {provider}이(가) 이메일 주소 {email}을(를) 확인하지 않았습니다",
		"인증 제공자에서 주소를 확인한 뒤 터미널에서 다시 시작하세요: tsh login",
	},
	"provider-failed": {
		"인증 제공자 {provider}이(가) 로그인을 거부했습니다: {why}",
		"1분 뒤에 터미널에서 다시 시도하세요: tsh login",
	},
	"provider-key-unpublished": {
		"인증 제공자 {provider}이(가) 공개하지 않은 키로 서명했습니다",
		"1분 뒤에 터미널에서 다시 시도하세요: tsh login",
	},
	"provider-misconfigured": {
		"인증 제공자 {provider}을(를) 쓸 수 없습니다: {problem}",
		"관리자에게 커넥터 {connector}을(를) 고쳐 달라고 하세요",
	},
	"provider-refused-client": {
		"인증 제공자 {provider}이(가) 로그인을 거부했습니다: {why}",
		"관리자에게 커넥터 {connector}을(를) 고쳐 달라고 하세요",
	},
	"provider-refused-login": {
		"인증 제공자 {provider}이(가) 로그인을 거부했습니다: {why}",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"provider-unreachable": {
		"인증 제공자 {provider}에 연결할 수 없습니다",
		"1분 뒤에 다시 시도하세요. 계속되면 {issuer}이(가) 응답하지 않는다고 관리자에게 알리세요",
	},

	// calls and this cluster
	"internal-error": {
		"내부 오류가 발생했습니다",
		"관리자에게 로그에서 이 오류 번호를 찾아 달라고 하세요",
	},
	"store-conflict": {
		"다른 사람이 동시에 변경했습니다",
		"터미널에서 다시 시작하세요: tsh login",
	},
	"store-stopped": {
		"인증 서버의 저장소가 멈췄습니다",
		"잠시 뒤에 다시 시도하세요",
	},
	"store-not-open": {
		"인증 서버의 저장소가 아직 열리지 않았습니다",
		"잠시 뒤에 다시 시도하세요",
	},
	"replica-not-leader": {
		"인증 서버의 리더가 바뀌는 중입니다",
		"잠시 뒤에 다시 시도하세요",
	},
	"change-unknown": {
		"저장되었는지 확인하지 못했습니다",
		"확인한 뒤 다시 시도하세요",
	},
	"disk-full": {
		"인증 서버의 디스크가 가득 차서 더 저장할 수 없습니다. 이미 저장한 것은 안전합니다",
		"관리자에게 인증 서버의 디스크 공간을 늘리고 다시 시작해 달라고 하세요",
	},
	"disk-failed": {
		"인증 서버의 디스크에 문제가 있어 더 저장할 수 없습니다",
		"관리자에게 인증 서버의 디스크를 점검하고 다시 시작해 달라고 하세요",
	},
}
