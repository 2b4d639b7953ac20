"""Mutations of the rules about the web server (S18, S19)."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

OPERATOR = "tests/contract/web/test_operator.py"
LIMITS = "tests/contract/web/test_limits.py"
WATCH = "tests/contract/web/test_watch.py"
PROBLEMS = "tests/contract/web/test_problems.py"
MASKING = "tests/contract/web/test_masking.py"
ROUTES = "tests/contract/web/test_routes.py"

MUTATIONS = (
    Mutation(
        "S18 commands need the token",
        "clients/web/commands.py",
        'tags=["commands"], dependencies=[OPERATOR]',
        'tags=["commands"], dependencies=[]',
        f"{OPERATOR}::test_nothing_is_changed_for_others[no token]",
    ),
    Mutation(
        "S18 only the operator's token",
        "clients/web/tokens.py",
        "return hmac.compare_digest(_digest(given), self._digest)",
        "return bool(given)",
        f"{OPERATOR}::test_nothing_is_changed_for_others[another token]",
    ),
    Mutation(
        "S18 conflicts need the token",
        "clients/web/reading.py",
        '    operation_id="conflicts",\n    dependencies=[OPERATOR],',
        '    operation_id="conflicts",',
        f"{ROUTES}::test_conflicts_have_row_keys_and_so_need_the_token",
    ),
    Mutation(
        "S18 no token in a URL",
        "clients/web/guard.py",
        "if any(name.lower() in _TOKEN_NAMES",
        "if any(name.lower() in ()",
        f"{OPERATOR}::test_a_token_in_a_url_is_refused_even_if_it_is_the_right_one",
    ),
    Mutation(
        "S18 no requests of other origins",
        "clients/web/guard.py",
        'return bool(separator) and scheme in {"http", "https"} and place.lower() == host.lower()',
        "return True",
        f"{OPERATOR}::test_nothing_is_changed_for_others[another origin]",
    ),
    Mutation(
        "S18 no WebSockets of other origins",
        "clients/web/guard.py",
        "            self._check(scope)\n        except RefusedError as exc:\n            # Star",
        "            pass\n        except RefusedError as exc:\n            # Star",
        f"{OPERATOR}::test_pages_of_other_origins_cannot_watch",
    ),
    Mutation(
        "S18 no other names of this server",
        "clients/web/guard.py",
        "        except ValueError:\n            return False\n        return True",
        "        except ValueError:\n            return True\n        return True",
        f"{OPERATOR}::test_nothing_is_changed_for_others[another host]",
    ),
    Mutation(
        "S18 a token that others could read is not used",
        "clients/web/tokens.py",
        " and not found.st_mode & 0o077",
        "",
        f"{OPERATOR}::test_a_token_that_others_could_read_is_replaced",
    ),
    Mutation(
        "S18 commands for hooks are refused",
        "clients/web/commands.py",
        "if any(options.hooks.values()) and not web.allow_hooks:",
        "if False:",
        f"{ROUTES}::test_hooks_are_refused_unless_the_operator_allows_them",
    ),
    Mutation(
        "S19 bodies are bounded",
        "clients/web/guard.py",
        "            if len(body) > self._limits.body_bytes:",
        "            if False:",
        f"{LIMITS}::test_a_large_body_is_refused[chunked]",
    ),
    Mutation(
        "S19 a request arrives in time",
        "clients/web/connections.py",
        "self.loop.call_later(self.limits.arrival_s, self.transport.close)",
        "self.loop.call_later(9999, self.transport.close)",
        f"{LIMITS}::test_a_connection_whose_request_does_not_arrive_is_closed",
    ),
    Mutation(
        "S19 a slow reader is dropped",
        "clients/web/sockets.py",
        "async with asyncio.timeout(limits.slow_s):",
        "async with asyncio.timeout(None):",
        f"{WATCH}::test_a_slow_reader_is_dropped_with_a_reason_and_others_go_on",
    ),
    Mutation(
        "S19 a dropped reader does not stay",
        "clients/web/connections.py",
        "            self._transport.abort()",
        "            pass",
        f"{WATCH}::test_a_reader_that_never_reads_is_cut_off",
    ),
    Mutation(
        "S19 an idle WebSocket is not taken for a late request",
        "clients/web/connections.py",
        "        if self._upgraded:\n            return\n",
        "",
        f"{WATCH}::test_a_client_may_wait_for_a_change_longer_than_for_a_request",
    ),
    Mutation(
        "S19 changes are put together",
        "clients/web/feeds.py",
        "            await asyncio.sleep(self._limits.change_s)\n",
        "",
        f"{WATCH}::test_there_is_at_most_one_change_in_half_a_second",
    ),
    Mutation(
        "S19 errors do not repeat what was sent",
        "clients/web/app.py",
        'return {"in": place, "field": field, "detail": detail}',
        'return {"in": place, "field": field, "detail": detail + str(error.get("input"))}',
        f"{PROBLEMS}::test_an_invalid_body_names_the_field_and_has_no_effect",
    ),
    Mutation(
        "S19 a WebSocket shows no passwords in hooks",
        "clients/web/feeds.py",
        "self._hear(Heard(shown(view)))",
        "self._hear(Heard(view))",
        f"{MASKING}::test_no_answer_shows_passwords[headers0]",
    ),
    Mutation(
        "S18 commands of hooks are shown to the operator only",
        "clients/web/masking.py",
        "    return operation if operator else _public(operation)",
        "    return operation",
        f"{MASKING}::test_commands_of_hooks_are_not_shown_without_the_token[headers0]",
    ),
)
